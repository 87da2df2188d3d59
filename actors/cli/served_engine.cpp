#include "actors/cli/served_engine.hpp"

#include "actors/cli/local_engine.hpp"
#include "model/tokenizer/chat_template_file.hpp"

namespace troupe::cli {
namespace {

http::server_options options_of(const config::engine_config& config) {
  http::server_options options;
  options.http = config.http;
  options.request_deadline = config.limits.request_deadline;
  return options;
}

http::served_model model_of(const config::engine_config& config, const actors::engine& engine) {
  const auto& checkpoint = engine.checkpoint();
  return http::make_served_model(config, checkpoint, model::find_template_kind(checkpoint.folder),
                                 engine.tokenizer());
}

}  // namespace

served_engine::served_engine(const config::engine_config& config)
    : system_(config_), engine_(system_, config), server_(system_, options_of(config)) {
  server_.attach(engine_.gateway(), model_of(config, engine_));
}

bool served_engine::wait_ready(const std::function<bool()>& stop) {
  return show_loading(system_, engine_.gateway(), stop);
}

}  // namespace troupe::cli
