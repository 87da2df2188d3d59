#include "actors/errors.hpp"

#include "config/error.hpp"
#include "gpu/error.hpp"
#include "gpu/graph.hpp"
#include "model/model_runner.hpp"
#include "transport/error.hpp"

#include <caf/message.hpp>
#include <caf/message_builder.hpp>
#include <caf/sec.hpp>

#include <exception>

namespace troupe::actors {
namespace {

const char* name_of(engine_error code) {
  switch (code) {
    case engine_error::none: return "no error";
    case engine_error::device_failed: return "device failed";
    case engine_error::peer_lost: return "peer lost";
    case engine_error::plan_refused: return "plan refused";
    case engine_error::not_open: return "shard not open";
    case engine_error::bad_configuration: return "bad configuration";
    case engine_error::media_failed: return "media failed";
    case engine_error::refused: return "refused";
    case engine_error::internal: return "internal error";
    case engine_error::device_lost: return "device lost";
  }
  return "unknown error";
}

}  // namespace

caf::error make_error(engine_error code) {
  return {static_cast<uint8_t>(code), engine_error_category};
}

caf::error make_error(engine_error code, std::string text) {
  return {static_cast<uint8_t>(code), engine_error_category, caf::make_message(std::move(text))};
}

std::string render_engine_error(uint8_t code, caf::atom_value, const caf::message& context) {
  std::string text = name_of(static_cast<engine_error>(code));
  if (context.match_elements<std::string>()) text += ": " + context.get_as<std::string>(0);
  return text;
}

std::string describe(const caf::error& failure) {
  if (!failure) return "no error";
  if (failure.category() == engine_error_category)
    return render_engine_error(failure.code(), failure.category(), failure.context());
  return to_string(failure);
}

bool is(const caf::error& failure, engine_error code) {
  return failure && failure.category() == engine_error_category &&
         failure.code() == static_cast<uint8_t>(code);
}

caf::error current_error() {
  try {
    throw;
  } catch (const model::plan_refused& failure) {
    return make_error(engine_error::plan_refused, failure.what());
  } catch (const gpu::stale_graph& failure) {
    return make_error(engine_error::plan_refused, failure.what());
  } catch (const model::peer_lost& failure) {
    return make_error(engine_error::peer_lost, failure.what());
  } catch (const transport::error& failure) {
    return make_error(engine_error::peer_lost, failure.what());
  } catch (const gpu::device_lost& failure) {
    return make_error(engine_error::device_lost, failure.what());
  } catch (const gpu::error& failure) {
    return make_error(engine_error::device_failed, failure.what());
  } catch (const config::error& failure) {
    return make_error(engine_error::bad_configuration, failure.what());
  } catch (const std::exception& failure) {
    return make_error(engine_error::internal, failure.what());
  } catch (...) {
    return make_error(engine_error::internal, "something that is not an exception was thrown");
  }
}

}  // namespace troupe::actors
