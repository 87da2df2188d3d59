// Runs the planner through many seeded random histories. `--seed=N` replays one of them,
// `--schedules=N` says how many, `--first=N` where to begin.
#include "simulation/planner_schedule.hpp"
#include "simulation/simulation_arguments.hpp"

#include <fmt/format.h>

#include <cstdint>

namespace {

using namespace troupe::simulation;

/// False if a promise was broken, after saying which and how to see it again.
bool run(uint64_t seed, coverage& seen) {
  try {
    const uint64_t trace = planner_schedule(seed, seen).run();
    coverage ignored;
    if (planner_schedule(seed, ignored).run() == trace) return true;
    fmt::print(stderr, "seed {}: two runs of one seed differ\n", seed);
  } catch (const violation& broken) {
    fmt::print(stderr, "seed {}: {}\n", seed, broken.what());
  }
  fmt::print(stderr, "replay with --seed={}\n", seed);
  return false;
}

/// What a run of this many schedules must have met at least once.
constexpr const char* must_happen[] = {
    "broken logits",
    "cancelled with steps in flight",
    "chunks from inside a picture",
    "deadlines passed",
    "mixed steps",
    "paused with steps in flight",
    "pictures asked for again",
    "pictures failed",
    "pictures found in the prefix cache",
    "preemptions",
    "prefix tokens found",
    "reached max_tokens",
    "recomputed",
    "recomputed with steps in flight",
    "refused: does not fit",
    "refused: queue full",
    "replays",
    "replays exhausted",
    "resumed",
    "results of other steps refused",
    "steps planned before their tokens were known",
    "steps with adjustments",
    "stopped",
};
constexpr uint64_t schedules_for_coverage = 500;

}  // namespace

int main(int argc, char** argv) {
  const auto arguments = read_arguments(argc, argv);
  if (!arguments) return 2;
  const auto [first, schedules, replay] = *arguments;
  coverage seen;
  for (uint64_t seed = first; seed < first + schedules; ++seed)
    if (!run(seed, seen)) return 1;

  for (const auto& [what, count] : seen) fmt::print("{:>10}  {}\n", count, what);
  bool complete = true;
  for (const char* what : must_happen) {
    if (schedules < schedules_for_coverage || seen[what] > 0) continue;
    fmt::print(stderr, "never happened: {}\n", what);
    complete = false;
  }
  fmt::print("{} schedules from seed {}\n", schedules, first);
  return complete ? 0 : 1;
}
