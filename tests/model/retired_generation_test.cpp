// Memory that was replaced: its graphs are refused before anything is launched, and nothing of the
// new generation touches it. The old pages are not there any more: a touch would end the process,
// or on a device the context.
#include "gpu/counters.hpp"
#include "support/filled_steps.hpp"
#include "support/runner_fixture.hpp"
#include "support/tested_settings.hpp"

#include <boost/test/unit_test.hpp>

#include <memory>
#include <string>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

void retire(runner_fixture& f) {
  for (int32_t rank = 0; rank < f.group.tp_size(); ++rank)
    f.group.on_rank(rank, [](model::model_runner& runner) { runner.retire(true); });
}

bool is_refused(runner_fixture& f, const plan::step_plan& plan) {
  try {
    f.group.run(plan);
  } catch (const model::plan_refused& refused) {
    return std::string(refused.what()).find("retired") != std::string::npos;
  }
  return false;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(retired_generations)

BOOST_AUTO_TEST_CASE(an_old_generation_runs_nothing_and_the_new_one_does_not_touch_it) {
  for (const auto& setting : tested_settings()) {
    BOOST_TEST_CONTEXT(setting) {
      runner_fixture old(setting.options());
      const auto expected = run_all_buckets(old);
      old.builder.advance(old.builder.add(old.prompt("text0")), 9);
      const plan::step_plan stale = old.builder.build();
      retire(old);
      const auto replays = gpu::read_counters().graph_replays;
      BOOST_TEST(is_refused(old, stale));
      BOOST_TEST(gpu::read_counters().graph_replays == replays);

      runner_fixture current(setting.options());
      BOOST_TEST((run_all_buckets(current) == expected));
      BOOST_TEST(is_refused(old, stale));
      BOOST_TEST((run_all_buckets(current) == expected));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
