#include "actors/cli/commands.hpp"
#include "actors/cli/served_engine.hpp"
#include "actors/cli/settings.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <csignal>
#include <ctime>
#include <memory>

namespace troupe::cli {
namespace {

using namespace std::chrono_literals;

// Inside the 30 s that process managers grant between SIGTERM and SIGKILL.
constexpr auto drain_grace = 25s;

/// SIGINT and SIGTERM as something to ask for. Made before any other thread, which inherit the
/// mask.
class stop_signals {
 public:
  stop_signals() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGINT);
    sigaddset(&set_, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }

  /// Whether a signal came within `patience`.
  bool wait(std::chrono::milliseconds patience) {
    const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(patience);
    const timespec bound{seconds.count(), std::chrono::nanoseconds(patience - seconds).count()};
    came_ = came_ || sigtimedwait(&set_, nullptr, &bound) > 0;
    return came_;
  }

  /// From now on a signal ends the process at once: the operator is in a hurry.
  void restore() { pthread_sigmask(SIG_UNBLOCK, &set_, nullptr); }

 private:
  sigset_t set_{};
  bool came_ = false;
};

void print_address(const config::engine_config& config, uint16_t port) {
  fmt::print("serving on http://{}:{}/v1\n", config.http.host, port);
  if (config.http.api_keys.empty() && config.http.host != "127.0.0.1" && config.http.host != "::1")
    spdlog::warn("{} can be reached from other machines and no API key is set", config.http.host);
  std::fflush(stdout);
}

int serve(const setting_options& settings) {
  const config::engine_config config = settings.load().value;
  apply_log_level(config, /*quiet=*/false);
  stop_signals stop;
  served_engine engine(config);
  if (engine.wait_ready([&stop] { return stop.wait(0ms); })) print_address(config, engine.port());
  while (!stop.wait(1s)) {
  }
  spdlog::info("stopping: running requests have {} s to finish", drain_grace.count());
  stop.restore();
  engine.stop(drain_grace);
  return 0;
}

}  // namespace

void add_serve(CLI::App& program, action& chosen) {
  auto* command = program.add_subcommand("serve", "Serve a model over HTTP (OpenAI's API)");
  auto settings = std::make_shared<setting_options>();
  settings->add_to(*command);
  command->callback([&chosen, settings] { chosen = [settings] { return serve(*settings); }; });
}

}  // namespace troupe::cli
