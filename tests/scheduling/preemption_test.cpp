// Too few blocks: who goes on, who gives way, who comes back.
#include "scheduling/planner_fixture.hpp"

#include <algorithm>

namespace plan = troupe::plan;
using namespace troupe::scheduling;
using troupe::scheduling_test::chunk_sizes;
using troupe::scheduling_test::planner_fixture;
using numbers = std::vector<int32_t>;

namespace {

/// Seeds (= request ids) of the rows of a step.
std::vector<uint64_t> sampled(const plan::step_plan& plan) {
  std::vector<uint64_t> seeds;
  for (const auto& row : plan.sampling) seeds.push_back(row.seed);
  return seeds;
}

/// 6 blocks of 4 tokens.
struct small_pool : planner_fixture {
  small_pool() { limits.plan.num_blocks = 7; }

  /// Three requests of 3 prompt tokens, with 8 tokens and 2 blocks each after `steps` = 6: the pool
  /// is full, and the next step needs a block for each.
  void fill_pool(int32_t steps = 6) {
    for (request_id id = 1; id <= 3; ++id) submit_text(id, 3, 16);
    run_steps(steps);
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(preemption, small_pool)

BOOST_AUTO_TEST_CASE(the_youngest_gives_way_when_blocks_run_out) {
  fill_pool();
  BOOST_TEST(planner().statistics().blocks_held == 6);
  BOOST_TEST(sampled(plan_step()) == std::vector<uint64_t>({1, 2}),
             boost::test_tools::per_element());
  BOOST_TEST(planner().statistics().preemptions == 1);
  BOOST_TEST(planner().statistics().running == 2);
  complete();
  // All end with all their tokens, none twice.
  while (can_plan()) complete();
  for (request_id id = 1; id <= 3; ++id) BOOST_TEST(tokens_of(id).size() == 16U);
  BOOST_TEST(ended(end_reason::length).size() == 3U);
}

BOOST_AUTO_TEST_CASE(blocks_of_a_preempted_request_come_back_after_its_steps) {
  fill_pool(5);
  plan_step();  // writes the last free places
  // 3 is preempted, but the step in flight writes its blocks: nobody gets them in this step.
  BOOST_TEST(!can_plan());
  BOOST_TEST(planner().statistics().preemptions == 1);
  BOOST_TEST(planner().statistics().blocks_held == 6);
  complete();
  BOOST_TEST(sampled(plan_step()) == std::vector<uint64_t>({1, 2}),
             boost::test_tools::per_element());
  BOOST_TEST(tokens_of(3).size() == 6U);  // the step's token was not lost
}

BOOST_AUTO_TEST_CASE(the_line_does_not_overtake_a_preempted_request) {
  fill_pool(5);
  plan_step();
  BOOST_TEST(!can_plan());
  submit_text(4, 1, 1);  // one block would do, and 3 needs three
  BOOST_TEST(!can_plan());
  complete();
  std::vector<uint64_t> order;
  while (can_plan()) {
    for (const uint64_t id : sampled(planned.back()))
      if (id > 2) order.push_back(id);
    complete();
  }
  BOOST_REQUIRE(!order.empty());
  BOOST_TEST(order.front() == 3U);
}

BOOST_AUTO_TEST_CASE(a_request_is_preempted_at_most_so_often_and_everybody_finishes) {
  for (const int32_t most : {0, 1, 3}) {
    small_pool world;
    world.limits.max_preemptions = most;
    for (request_id id = 1; id <= 6; ++id) world.submit_text(id, 5, 18);
    int32_t steps = 0;
    while (world.can_plan() && ++steps < 1'000) world.complete();
    BOOST_TEST(world.ended(end_reason::length).size() == 6U);
    BOOST_TEST(world.planner().statistics().preemptions <= most * 6);
    if (most > 0) BOOST_TEST(world.planner().statistics().preemptions > 0);
  }
}

// Robustness G4: every request needs one more block, and nobody has one.
BOOST_AUTO_TEST_CASE(the_oldest_is_in_every_step) {
  for (request_id id = 1; id <= 4; ++id) submit_text(id, 4, 20);
  int32_t tokens_of_oldest = 0;
  while (tokens_of_oldest < 20) {
    BOOST_REQUIRE(can_plan());
    BOOST_REQUIRE(sampled(planned.back()).front() == 1U);
    complete();
    ++tokens_of_oldest;
  }
  BOOST_TEST(ended(end_reason::length).size() == 1U);
}

BOOST_AUTO_TEST_CASE(an_older_request_that_waited_for_its_picture_takes_the_youngests_place) {
  limits.plan.max_num_seqs = 2;
  submit(picture_request(1, 8, 4, 2, 3));
  submit_text(2, 4, 12);
  submit_text(3, 4, 12);
  run_steps(2);
  BOOST_REQUIRE(planner().media_ready(1, {0, 1, 2}));
  const auto step = plan_step();
  BOOST_TEST(sampled(step) == std::vector<uint64_t>({2, 1}), boost::test_tools::per_element());
  BOOST_TEST(planner().statistics().preemptions == 1);
}

BOOST_AUTO_TEST_CASE(a_younger_request_waits_for_a_place) {
  limits.plan.max_num_seqs = 2;
  submit_text(1, 4, 12);
  submit_text(2, 4, 12);
  run_steps(2);
  submit_text(3, 4, 12);
  BOOST_TEST(plan_step().num_sequences() == 2);
  BOOST_TEST(planner().statistics().preemptions == 0);
}

BOOST_AUTO_TEST_CASE(admission_leaves_running_sequences_a_block_to_grow) {
  submit_text(1, 8, 8);
  submit_text(2, 4, 8);
  run_steps(1);  // 3 of 6 blocks are held
  submit_text(3, 8, 2);
  // 3 needs two blocks, three are free, but two are kept for 1 and 2.
  BOOST_TEST(plan_step().num_sequences() == 2);
}

// A protected request holds all blocks it may need. It may not come back while that could leave an
// older one without the blocks to finish.
BOOST_AUTO_TEST_CASE(a_protected_request_comes_back_only_if_all_older_ones_can_finish) {
  limits.max_preemptions = 1;
  limits.plan.num_blocks = 8;
  submit_text(1, 3, 22);  // at most 6 of the 7 blocks
  submit_text(2, 3, 10);
  submit_text(3, 3, 10);  // at most 3
  run_steps(7);
  BOOST_REQUIRE(planner().statistics().preemptions == 1);
  planner().cancel(2);
  // Now 4 blocks are free, but 3 may not take three of them for good: 1 may need them.
  while (ended(end_reason::length).empty()) {
    BOOST_REQUIRE(can_plan());
    BOOST_TEST(sampled(planned.back()) == std::vector<uint64_t>({1}),
               boost::test_tools::per_element());
    complete();
  }
  while (can_plan()) complete();
  BOOST_TEST(tokens_of(1).size() == 22U);
  BOOST_TEST(tokens_of(3).size() == 10U);
  BOOST_TEST(planner().statistics().preemptions == 1);
}

// 2 waits for room for its adjustments; then 1 takes its blocks. What was kept back for 2 is 1's to
// use.
BOOST_AUTO_TEST_CASE(nothing_is_kept_back_for_a_request_that_was_preempted) {
  limits.plan.num_blocks = 5;
  limits.plan.max_adjustments = 13;  // one request's, never two
  for (const request_id id : {1, 2}) {
    auto request = text_request(id, 3, 10);
    request.sampling.repetition_penalty = 2;
    BOOST_REQUIRE(!submit(std::move(request)).rejected);
  }
  int32_t token = 800;
  while (can_plan()) {
    BOOST_TEST(planned.back().adjustments.size() <= 13U);
    complete(++token);
  }
  BOOST_TEST(planner().statistics().preemptions >= 1);
  BOOST_TEST(tokens_of(1).size() == 10U);
  BOOST_TEST(tokens_of(2).size() == 10U);
}

BOOST_AUTO_TEST_CASE(a_preempted_picture_is_asked_for_again_unless_it_is_cached) {
  for (const bool cached : {false, true}) {
    small_pool world;
    world.limits.prefix_cache = cached;
    world.limits.plan.num_blocks = 5;
    world.submit_text(1, 3, 10);
    world.submit(picture_request(3, 3, 10, 1, 2));
    BOOST_REQUIRE(world.planner().media_ready(3, {0, 1}));
    world.run_steps(6);
    BOOST_TEST(world.count<release_media>(3) == 1);
    world.plan_step();  // 1 takes the last block of 3, not the one with the picture
    BOOST_TEST(world.planner().statistics().preemptions == 1);
    BOOST_TEST(world.count<want_media>(3) == (cached ? 1 : 2));
    BOOST_TEST(world.planner().statistics().waiting_for_media == (cached ? 0 : 1));
    if (!cached) BOOST_REQUIRE(world.planner().media_ready(3, {7, 8}));
    world.complete();
    while (world.can_plan()) world.complete();
    BOOST_TEST(world.tokens_of(3).size() == 10U);
    BOOST_TEST(world.count<release_media>(3) == world.count<want_media>(3));
  }
}

BOOST_AUTO_TEST_SUITE_END()
