#include "actors/cli/commands.hpp"
#include "actors/cli/settings.hpp"
#include "config/load.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <memory>
#include <string>

namespace troupe::cli {
namespace {

config::loaded_config load_file(const std::string& file) {
  config::setting_sources sources;
  sources.file = file;
  sources.environment = process_environment;
  return config::load(sources);
}

void add_check(CLI::App& command, action& chosen) {
  auto* check = command.add_subcommand("check", "Report every fault of a configuration file");
  auto file = std::make_shared<std::string>();
  check->add_option("FILE", *file, "TOML file")->required();
  check->callback([&chosen, file] {
    chosen = [file] {
      load_file(*file);
      fmt::print("{}: no faults\n", *file);
      return 0;
    };
  });
}

void add_print(CLI::App& command, action& chosen) {
  auto* print =
      command.add_subcommand("print", "Print every setting with its value and where it came from");
  auto file = std::make_shared<std::string>();
  print->add_option("FILE", *file, "TOML file")->required();
  print->callback([&chosen, file] {
    chosen = [file] {
      fmt::print("{}", config::print(load_file(*file)));
      return 0;
    };
  });
}

}  // namespace

void add_config(CLI::App& program, action& chosen) {
  auto* command = program.add_subcommand("config", "Check and print configuration files");
  command->require_subcommand(1);
  add_check(*command, chosen);
  add_print(*command, chosen);
}

}  // namespace troupe::cli
