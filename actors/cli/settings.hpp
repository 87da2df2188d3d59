#pragma once

#include "config/load.hpp"

#include <CLI/App.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

/// The program `troupe`: one file per command, each a thin client of the layers below.
namespace troupe::cli {

/// The engine's settings as options of a command, one for every line of the settings table
/// (config/load.hpp), plus the model as a positional argument and `--config FILE`.
class setting_options {
 public:
  void add_to(CLI::App& command);

  /// Merges flags, environment, file and defaults. Throws config::error.
  config::loaded_config load() const;

 private:
  std::optional<std::string> model_;
  std::optional<std::string> file_;
  std::vector<std::pair<std::string, std::string>> flags_;
};

/// The process's own environment, as setting_sources asks for it.
const char* process_environment(const char* name);

/// Sets the log's level. `quiet`: a command whose output is for a person to read shows warnings
/// only, unless another level than the default was asked for.
void apply_log_level(const config::engine_config& config, bool quiet);

}  // namespace troupe::cli
