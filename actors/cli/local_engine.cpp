#include "actors/cli/local_engine.hpp"

#include "actors/cli/elapsed.hpp"
#include "actors/cli/progress.hpp"
#include "actors/errors.hpp"

#include <fmt/format.h>
#include <caf/scoped_actor.hpp>

#include <chrono>
#include <stdexcept>
#include <thread>

namespace troupe::cli {
namespace {

using namespace std::chrono_literals;

constexpr auto poll_interval = 100ms;
// A machine that is busy with loading may be slow to answer; one that never does must not be waited for.
constexpr auto silence_max = 60s;

/// Throws std::runtime_error if there is no engine that could answer.
actors::engine_status status_of(caf::scoped_actor& self, const actors::gateway_actor& gateway) {
  actors::engine_status status;
  caf::error failure;
  self->request(gateway, silence_max, actors::get_status{})
      .receive([&](const actors::engine_status& found) { status = found; },
               [&](const caf::error& found) { failure = found; });
  if (failure)
    throw std::runtime_error(
        fmt::format("the engine does not answer: {}", actors::describe(failure)));
  return status;
}

}  // namespace

local_engine::local_engine(const config::engine_config& config)
    : system_(config_), engine_(system_, config) {}

void local_engine::wait_ready() {
  show_loading(system_, gateway(), [] { return false; });
}

bool show_loading(caf::actor_system& system, const actors::gateway_actor& gateway,
                  const std::function<bool()>& stop) {
  caf::scoped_actor self{system};
  progress_bar bar(stderr);
  const auto begin = std::chrono::steady_clock::now();
  while (!stop()) {
    const auto status = status_of(self, gateway);
    if (status.phase == actors::engine_phase::failed) {
      bar.finish();
      throw std::runtime_error(status.detail);
    }
    if (status.phase != actors::engine_phase::loading) {
      bar.finish();
      fmt::print(stderr, "ready in {}\n", format_seconds(seconds_since(begin)));
      return true;
    }
    if (status.total > 0)
      bar.show(status.detail, status.done, status.total, status.counts_bytes);
    std::this_thread::sleep_for(poll_interval);
  }
  bar.finish();
  return false;
}

}  // namespace troupe::cli
