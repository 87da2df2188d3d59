// A rank that outlives its group: the graphs it captured replay rightly among new peers, in memory
// that was mapped under them.
#include "gpu/counters.hpp"
#include "gpu/cuda_backend.hpp"
#include "support/filled_steps.hpp"
#include "support/runner_fixture.hpp"
#include "support/tested_settings.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <future>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

std::vector<tested_setting> tested_groups() {
  auto settings = tested_settings();
  std::erase_if(settings, [](const tested_setting& setting) { return setting.tp_size == 1; });
  if (tested_device() == gpu::device_kind::cpu) settings.push_back({"tiny", 4, gpu::dtype::f32});
  return settings;
}

/// A device for each rank where there are enough.
group_options options_of(const tested_setting& setting) {
  group_options options = setting.options();
  const auto devices = static_cast<int32_t>(gpu::cuda_devices().size());
  options.num_devices = std::clamp(devices, 1, setting.tp_size);
  return options;
}

/// All ranks but `missing` wait for it in the middle of a step, until the group is aborted.
void lose(runner_fixture& f, int32_t missing) {
  f.builder.advance(f.builder.add(f.prompt("text0")), 9);
  const plan::step_plan plan = f.builder.build();
  std::vector<std::future<plan::step_result>> waiting;
  for (int32_t rank = 0; rank < f.group.tp_size(); ++rank)
    if (rank != missing) waiting.push_back(f.group.run_on(rank, plan));
  f.group.abort();
  for (auto& rank : waiting) BOOST_CHECK_THROW(rank.get(), model::peer_lost);
}

void begin_anew(runner_fixture& f, uint64_t epoch, const std::vector<int32_t>& replaced) {
  f.group.begin_anew(epoch, replaced);
  f.builder = step_builder(f.group.limits(), epoch);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(new_groups)

BOOST_AUTO_TEST_CASE(survivors_replay_their_graphs_among_new_peers) {
  for (const auto& setting : tested_groups()) {
    BOOST_TEST_CONTEXT(setting) {
      runner_fixture f(options_of(setting));
      const auto expected = run_all_buckets(f);
      const auto digests = f.group.graph_digests();
      const auto buckets = std::ssize(f.group.limits().token_buckets);
      for (int32_t round = 0; round < rounds_of(3, 20); ++round) {
        const int32_t missing = round % setting.tp_size;
        lose(f, missing);
        const auto before = gpu::read_counters();
        begin_anew(f, static_cast<uint64_t>(round) + 2, {missing});
        const auto joined = gpu::read_counters();
        BOOST_TEST(joined.graph_captures - before.graph_captures == buckets);  // of one rank
        BOOST_TEST((f.group.graph_digests() == digests));
        BOOST_TEST((run_all_buckets(f) == expected));
        BOOST_TEST(gpu::read_counters().graph_captures == joined.graph_captures);
        BOOST_TEST(gpu::read_counters().arena_allocations == joined.arena_allocations);
      }
    }
  }
}

/// A rank that was only late stays as well.
BOOST_AUTO_TEST_CASE(a_whole_group_begins_anew) {
  for (const auto& setting : tested_groups()) {
    BOOST_TEST_CONTEXT(setting) {
      runner_fixture f(options_of(setting));
      const auto expected = run_all_buckets(f);
      lose(f, setting.tp_size - 1);
      const auto before = gpu::read_counters().graph_captures;
      begin_anew(f, 2, {});
      BOOST_TEST((run_all_buckets(f) == expected));
      BOOST_TEST(gpu::read_counters().graph_captures == before);
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
