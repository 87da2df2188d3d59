// Runs the engine's actors through many seeded random histories. `--seed=N` replays one of them and
// tells what happens in it, `--schedules=N` says how many, `--first=N` where to begin.
#include "simulation/engine_schedule.hpp"
#include "simulation/simulation_arguments.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <iterator>

namespace {

using namespace troupe::simulation;

// Runs of one seed must not differ: looked at for the first seeds only, since it costs twice the
// time.
constexpr uint64_t seeds_run_twice = 10;
constexpr uint64_t schedules_for_coverage = 300;

/// What a run of that many schedules must have met at least once.
constexpr const char* must_happen[] = {
    "actors stalled",
    "cancelled",
    "cancelled twice",
    "clients left",
    "clients napped",
    "deadlines passed",
    "drains",
    "engines failed",
    "finished",
    "graphs quarantined",
    "groups rebuilt",
    "pictures failed",
    "pictures refused",
    "plans refused",
    "preemptions",
    "prefix tokens found",
    "ranks kept",
    "ranks replaced",
    "ranks that refused to join",
    "ranks too late",
    "ranks with another digest",
    "ranks with another token",
    "refused: draining",
    "refused: queue full",
    "replays",
    "shards died",
    "shut down while running",
    "towers died",
    "towers that lost their device",
};

/// A broken invariant, an exception nobody takes or a wild pointer ends the process: the seed must
/// not be lost with it. Prepared beforehand, since a signal handler may do next to nothing.
std::array<char, 64> last_words{};
size_t last_words_length = 0;
constexpr int fatal_signals[] = {SIGABRT, SIGSEGV, SIGBUS, SIGFPE, SIGILL};
std::array<struct sigaction, std::size(fatal_signals)> earlier_actions;

extern "C" void tell_seed(int signal) {
  [[maybe_unused]] const auto written = write(STDERR_FILENO, last_words.data(), last_words_length);
  for (size_t i = 0; i < std::size(fatal_signals);
       ++i)  // the fault happens again, to whom it did before
    if (fatal_signals[i] == signal) sigaction(signal, &earlier_actions[i], nullptr);
}

void tell_seed_on_fatal_signals() {
  struct sigaction action {};
  action.sa_handler = tell_seed;
  for (size_t i = 0; i < std::size(fatal_signals); ++i)
    sigaction(fatal_signals[i], &action, &earlier_actions[i]);
}

void remember_seed(uint64_t seed) {
  const auto text =
      fmt::format_to_n(last_words.data(), last_words.size(), "replay with --seed={}\n", seed);
  last_words_length = std::min(text.size, last_words.size());
}

/// False if a promise was broken, after saying which and how to see it again.
bool run(uint64_t seed, bool verbose, bool twice, coverage& seen) {
  remember_seed(seed);
  try {
    const uint64_t trace = engine_schedule(seed, seen, verbose).run();
    if (verbose) fmt::print("hash of all events: {:016x}\n", trace);
    coverage ignored;
    if (!twice || engine_schedule(seed, ignored, false).run() == trace) return true;
    fmt::print(stderr, "seed {}: two runs of one seed differ\n", seed);
  } catch (const std::exception& broken) {
    fmt::print(stderr, "seed {}: {}\n", seed, broken.what());
  }
  fmt::print(stderr, "replay with --seed={}\n", seed);
  return false;
}

bool is_complete(coverage& seen) {
  bool complete = true;
  for (const char* what : must_happen) {
    if (seen[what] > 0) continue;
    fmt::print(stderr, "never happened: {}\n", what);
    complete = false;
  }
  return complete;
}

}  // namespace

int main(int argc, char** argv) {
  const auto arguments = read_arguments(argc, argv);
  if (!arguments) return 2;
  const auto [first, schedules, replay] = *arguments;
  tell_seed_on_fatal_signals();
  spdlog::set_level(replay ? spdlog::level::info : spdlog::level::off);
  coverage seen;
  for (uint64_t seed = first; seed < first + schedules; ++seed)
    if (!run(seed, replay, replay || seed < first + seeds_run_twice, seen)) return 1;

  for (const auto& [what, count] : seen) fmt::print("{:>10}  {}\n", count, what);
  fmt::print("{} schedules from seed {}\n", schedules, first);
  return schedules < schedules_for_coverage || is_complete(seen) ? 0 : 1;
}
