#include "actors/cli/settings.hpp"

#include <fmt/ranges.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include <cstdlib>

namespace troupe::cli {

const char* process_environment(const char* name) {
  return std::getenv(name);
}

void setting_options::add_to(CLI::App& command) {
  command.add_option("MODEL", model_, "checkpoint folder");
  command.add_option("-c,--config", file_, "TOML file with any of the settings")->type_name("FILE");
  for (const auto& setting : config::setting_descriptions()) {
    if (setting.flags.empty()) continue;
    const std::string names = fmt::format("{}", fmt::join(setting.flags, ","));
    const std::string help = fmt::format("{} [{}]", setting.help, setting.environment);
    const auto remember = [this, key = setting.key](const std::string& value) {
      flags_.emplace_back(key, value);
    };
    if (!setting.boolean) {
      command.add_option_function<std::string>(names, remember, help)
          ->trigger_on_parse()  // a flag that is repeated is remembered each time
          ->type_name("VALUE")
          ->group("Settings");
      continue;
    }
    command
        .add_flag_callback(
            names, [remember] { remember("true"); }, help)
        ->group("Settings");
    if (!setting.off_flags.empty())
      command
          .add_flag_callback(
              fmt::format("{}", fmt::join(setting.off_flags, ",")),
              [remember] { remember("false"); }, "the opposite")
          ->group("Settings");
  }
}

config::loaded_config setting_options::load() const {
  config::setting_sources sources;
  if (file_) sources.file = *file_;
  if (model_) sources.flags.emplace_back("model.path", *model_);
  sources.flags.insert(sources.flags.end(), flags_.begin(), flags_.end());
  sources.environment = process_environment;
  return config::load(sources);
}

void apply_log_level(const config::engine_config& config, bool quiet) {
  const bool is_default = config.log.level == config::engine_config{}.log.level;
  spdlog::set_level(quiet && is_default ? spdlog::level::warn
                                        : spdlog::level::from_str(config.log.level));
}

}  // namespace troupe::cli
