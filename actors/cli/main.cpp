#include "actors/cli/commands.hpp"
#include "actors/shard_process.hpp"
#include "config/error.hpp"

#include <fmt/format.h>
#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

namespace {

constexpr int failure_status = 1;
constexpr int usage_status = 2;  // what the operator wrote cannot work

/// Threads of an OpenMP team that wait for each other spin for about a millisecond by default,
/// which is the right thing only while nothing else wants a core: beside other actors each wait
/// then costs a time slice. libgomp reads its environment when it is loaded, before main, so the
/// program starts once more with a short spin. An operator's own setting is left alone.
void spin_briefly(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "2000", 1);
  execv("/proc/self/exe", argv);
  // Without /proc it stays as it is: slower, not wrong.
}

int run(const troupe::cli::action& chosen) {
  try {
    return chosen();
  } catch (const troupe::config::error& problem) {
    for (const auto& fault : problem.faults()) fmt::print(stderr, "troupe: {}\n", fault);
    return usage_status;
  } catch (const std::exception& problem) {
    fmt::print(stderr, "troupe: {}\n", problem.what());
    return failure_status;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (const auto shard = troupe::actors::parse_shard_command(argc, argv))
    return troupe::actors::run_shard_process(*shard);

  spin_briefly(argv);

  // Standard output belongs to answers; the log goes to standard error.
  spdlog::set_default_logger(spdlog::stderr_color_mt("troupe"));

  CLI::App program{"Serves Qwen3-VL vision-language models."};
  program.set_version_flag("--version", TROUPE_VERSION);
  program.require_subcommand(1);
  program.failure_message(CLI::FailureMessage::help);
  troupe::cli::action chosen;
  troupe::cli::add_serve(program, chosen);
  troupe::cli::add_chat(program, chosen);
  troupe::cli::add_generate(program, chosen);
  troupe::cli::add_plan(program, chosen);
  troupe::cli::add_bench(program, chosen);
  troupe::cli::add_config(program, chosen);
  try {
    program.parse(argc, argv);
  } catch (const CLI::ParseError& problem) {
    const int status = program.exit(problem);
    return status == 0 ? 0 : usage_status;
  }
  return run(chosen);
}
