// How requests end, and what a lost group does to them.
#include "scheduling/planner_fixture.hpp"

#include <algorithm>

namespace plan = troupe::plan;
using namespace troupe::scheduling;
using troupe::scheduling_test::chunk_sizes;
using troupe::scheduling_test::planner_fixture;
using ids = std::vector<request_id>;
using numbers = std::vector<int32_t>;

namespace {

constexpr int32_t eos = 2;

/// What a group says of a step that nobody waits for any more.
plan::step_result late_result(const plan::step_plan& step, int32_t token) {
  plan::step_result late;
  late.epoch = step.epoch;
  late.step = step.step;
  late.content = step.content;
  late.tokens = {token};
  return late;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(lifecycle, planner_fixture)

BOOST_AUTO_TEST_CASE(an_end_token_ends_the_request_and_is_reported) {
  submit_text(1, 3, 8);
  run_steps(2);
  plan_step();
  complete(eos);
  BOOST_TEST(tokens_of(1) == numbers({50, 50, eos}), boost::test_tools::per_element());
  const auto end = end_of(1);
  BOOST_REQUIRE(end.has_value());
  BOOST_TEST((end->reason == end_reason::stop));
  BOOST_TEST(end->usage.prompt_tokens == 3);
  BOOST_TEST(end->usage.completion_tokens == 3);
  BOOST_TEST(!can_plan());
}

BOOST_AUTO_TEST_CASE(the_row_planned_behind_an_end_token_is_dropped) {
  submit_text(1, 3, 8);
  plan_step();
  plan_step();
  complete(eos);
  BOOST_TEST(ended(end_reason::stop) == ids({1}), boost::test_tools::per_element());
  // The second step still writes its block.
  BOOST_TEST(planner().statistics().blocks_held == 1);
  complete(77);
  BOOST_TEST(planner().statistics().blocks_held == 0);
  BOOST_TEST(tokens_of(1) == numbers({eos}), boost::test_tools::per_element());
  BOOST_TEST(count<request_ended>(1) == 1);
}

BOOST_AUTO_TEST_CASE(ignore_eos_leaves_stop_tokens_in_force) {
  auto request = text_request(1, 3, 8);
  request.sampling.ignore_eos = true;
  request.sampling.stop_token_ids = {60};
  submit(std::move(request));
  run_steps(1, eos);
  run_steps(1, 60);
  BOOST_TEST(tokens_of(1) == numbers({eos, 60}), boost::test_tools::per_element());
  BOOST_TEST(ended(end_reason::stop) == ids({1}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(stop_tokens_are_banned_until_min_tokens) {
  auto request = text_request(1, 3, 8);
  request.sampling.min_tokens = 1;
  request.sampling.stop_token_ids = {60};
  submit(std::move(request));
  const auto first = plan_step();
  BOOST_REQUIRE(first.adjustments.size() == 2U);
  for (const auto& adjustment : first.adjustments) BOOST_TEST(adjustment.bias < -1e8F);
  BOOST_TEST(plan_step().adjustments.empty());
}

BOOST_AUTO_TEST_CASE(logits_that_are_not_finite_end_one_request_and_leave_the_cache) {
  submit_text(1, 9, 8);
  submit_text(2, 3, 8);
  run_steps(1);
  plan_step();
  complete_with({-1, 50});
  const auto end = end_of(1);
  BOOST_REQUIRE(end.has_value());
  BOOST_TEST((end->reason == end_reason::failed));
  BOOST_TEST(end->detail == "the logits of token 1 were not finite");
  BOOST_TEST(tokens_of(1).size() == 1U);
  BOOST_TEST(planner().statistics().blocks_cached == 0);
  run_steps(2);
  BOOST_TEST(tokens_of(2).size() == 4U);
  // An equal prompt finds none of its blocks.
  auto again = text_request(9, 9, 1);
  again.prompt.token_ids = text_request(1, 9, 1).prompt.token_ids;
  submit(std::move(again));
  run_steps(1);
  BOOST_TEST(end_of(9)->usage.cached_tokens == 0);
}

BOOST_AUTO_TEST_CASE(blocks_of_logits_that_are_not_finite_are_cleared_once_no_step_touches_them) {
  submit_text(1, 9, 8);
  submit_text(2, 3, 8);
  run_steps(1);
  plan_step();
  const auto last = plan_step();  // planned before the failure shows
  BOOST_REQUIRE(last.num_sequences() == 2);
  std::vector<int32_t> doomed(last.block_tables.begin(),
                              last.block_tables.begin() + last.max_blocks_per_sequence);
  complete_with({-1, 50});
  BOOST_TEST(plan_step().cleared_blocks.empty());
  complete_with({77, 50});
  auto cleared = plan_step().cleared_blocks;
  std::sort(cleared.begin(), cleared.end());
  std::sort(doomed.begin(), doomed.end());
  BOOST_TEST(cleared == doomed, boost::test_tools::per_element());
  complete();
  BOOST_TEST(plan_step().cleared_blocks.empty());
}

BOOST_AUTO_TEST_CASE(a_request_that_ended_before_its_logits_broke_leaves_nothing_behind_either) {
  submit_text(1, 9, 8);
  submit_text(2, 3, 8);
  run_steps(1);
  plan_step();
  planner().cancel(1);
  complete_with({-1, 50});
  BOOST_TEST(ended(end_reason::cancelled) == ids({1}), boost::test_tools::per_element());
  BOOST_TEST(planner().statistics().blocks_cached == 0);
  BOOST_TEST(plan_step().cleared_blocks.size() == 3U);
}

BOOST_AUTO_TEST_CASE(a_token_outside_the_vocabulary_is_a_failure) {
  submit_text(1, 3, 8);
  plan_step();
  complete(1'000);
  BOOST_TEST(ended(end_reason::failed) == ids({1}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_second_request_reuses_the_full_blocks_of_an_equal_prompt) {
  submit_text(1, 12, 1);
  run_steps(1);
  auto again = text_request(9, 12, 1);
  again.prompt.token_ids = text_request(1, 12, 1).prompt.token_ids;
  submit(std::move(again));
  // All three blocks are cached, but the last token must be computed: its block is done again.
  BOOST_TEST(chunk_sizes(plan_step()) == numbers({4}), boost::test_tools::per_element());
  complete();
  BOOST_TEST(end_of(9)->usage.cached_tokens == 8);
  BOOST_TEST(planner().statistics().prefix_hits == 8);
  BOOST_TEST(planner().statistics().prefix_queries == 24);
}

BOOST_AUTO_TEST_CASE(an_answer_is_cached_for_the_next_turn) {
  submit_text(1, 6, 4);
  for (const int32_t token : {50, 51, 52, 53}) run_steps(1, token);
  auto next = text_request(9, 12, 1);
  next.prompt.token_ids = text_request(1, 6, 1).prompt.token_ids;
  for (const int32_t token : {50, 51, 52, 53, 60, 61}) next.prompt.token_ids.push_back(token);
  submit(std::move(next));
  run_steps(1);
  BOOST_TEST(end_of(9)->usage.cached_tokens == 8);  // two of the answer's tokens among them
}

BOOST_AUTO_TEST_CASE(equal_prompts_are_computed_once_and_only_shared_when_computed) {
  for (request_id id = 1; id <= 3; ++id) {
    auto request = text_request(id, 14, 2);
    request.prompt.token_ids = text_request(1, 14, 2).prompt.token_ids;
    submit(std::move(request));
  }
  submit_text(4, 3, 2);  // is not held up by those that wait
  BOOST_TEST(chunk_sizes(plan_step()) == numbers({14, 2}), boost::test_tools::per_element());
  BOOST_TEST(chunk_sizes(plan_step()) == numbers({1, 1}), boost::test_tools::per_element());
  complete();
  const auto shared = plan_step();
  BOOST_TEST(chunk_sizes(shared) == numbers({1, 2, 2}), boost::test_tools::per_element());
  BOOST_TEST(shared.context_lengths == numbers({4, 14, 14}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(who_waits_for_an_equal_prompt_goes_on_when_that_ends_early) {
  for (const request_id id : {1, 9}) {
    auto request = text_request(id, 20, 2);
    request.prompt.token_ids = text_request(1, 20, 2).prompt.token_ids;
    submit(std::move(request));
  }
  BOOST_TEST(plan_step().num_sequences() == 1);
  planner().cancel(1);
  BOOST_TEST(chunk_sizes(plan_step()) == numbers({16}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(without_the_prefix_cache_everything_is_computed) {
  limits.prefix_cache = false;
  submit_text(1, 12, 1);
  run_steps(1);
  BOOST_TEST(planner().statistics().blocks_cached == 0);
}

BOOST_AUTO_TEST_CASE(cancelling_works_in_every_phase_and_once) {
  submit_text(1, 40, 4);                   // prefilling
  submit(picture_request(2, 8, 4, 1, 3));  // waiting for its picture
  plan_step();
  submit_text(3, 4, 4);  // waiting
  for (const request_id id : {3, 2, 1, 1, 2, 77}) planner().cancel(id);
  BOOST_TEST(ended(end_reason::cancelled) == ids({3, 2, 1}), boost::test_tools::per_element());
  BOOST_TEST(planner().check() == "");
  BOOST_TEST(planner().statistics().blocks_held == 10);  // a step in flight writes them
  complete();
  BOOST_TEST(planner().statistics().blocks_held == 0);
  BOOST_TEST(!can_plan());
}

BOOST_AUTO_TEST_CASE(cancelling_while_decoding_drops_what_is_in_flight) {
  submit_text(1, 4, 8);
  submit_text(2, 4, 8);
  plan_step();
  plan_step();
  planner().cancel(1);
  complete();
  complete();
  BOOST_TEST(tokens_of(1).empty());
  BOOST_TEST(tokens_of(2).size() == 2U);
  BOOST_TEST(planner().statistics().blocks_held == 2);
}

BOOST_AUTO_TEST_CASE(a_passed_deadline_ends_a_request) {
  auto request = text_request(1, 4, 8);
  request.deadline = now + std::chrono::seconds(1);
  submit(std::move(request));
  submit_text(2, 4, 8);
  run_steps(2);
  planner().expire(now + std::chrono::milliseconds(999));
  BOOST_TEST(ended(end_reason::deadline).empty());
  planner().expire(now + std::chrono::seconds(1));
  BOOST_TEST(ended(end_reason::deadline) == ids({1}), boost::test_tools::per_element());
  BOOST_TEST(end_of(1)->detail == "running after 2 of 8 tokens");
}

BOOST_AUTO_TEST_CASE(a_result_that_is_not_the_oldest_steps_has_no_effect) {
  submit_text(1, 4, 8);
  const auto first = plan_step();
  const auto second = plan_step();
  plan::step_result result;
  result.epoch = first.epoch;
  result.step = second.step;
  result.content = second.content;
  result.tokens = {50};
  BOOST_TEST(!planner().complete(result));
  result.step = first.step;
  BOOST_TEST(!planner().complete(result));  // the digest is the second step's
  result.content = first.content;
  result.tokens = {50, 51};
  BOOST_TEST(!planner().complete(result));
  result.tokens = {50};
  ++result.epoch;
  BOOST_TEST(!planner().complete(result));
  --result.epoch;
  BOOST_TEST(planner().complete(result));
  BOOST_TEST(tokens_of(1).size() == 1U);
}

BOOST_AUTO_TEST_CASE(a_lost_group_replays_from_the_tokens_already_sent) {
  submit_text(1, 5, 8);
  for (const int32_t token : {50, 51}) run_steps(1, token);
  const auto lost = plan_step();
  planner().reset(7);
  BOOST_TEST(planner().check() == "");
  BOOST_TEST(!planner().complete(late_result(lost, 52)));
  planned.clear();

  const auto step = plan_step();
  BOOST_TEST(step.epoch == 7U);
  BOOST_TEST(step.step == 1U);
  BOOST_TEST(step.token_ids == numbers({200, 201, 202, 203, 204, 50, 51}),
             boost::test_tools::per_element());
  BOOST_TEST(step.sampling[0].position == 7);
  complete(52);
  BOOST_TEST(tokens_of(1) == numbers({50, 51, 52}), boost::test_tools::per_element());
  BOOST_TEST(planner().statistics().replays == 1);
}

BOOST_AUTO_TEST_CASE(a_request_that_loses_its_group_too_often_fails) {
  limits.max_replays = 2;
  submit_text(1, 5, 8);
  for (uint64_t epoch = 2; epoch <= 4; ++epoch) {
    plan_step();
    planned.clear();
    planner().reset(epoch);
  }
  BOOST_TEST(end_of(1)->detail == "lost its shards 3 times, limit 2");
  BOOST_TEST(planner().check() == "");
}

BOOST_AUTO_TEST_CASE(a_request_that_only_waited_is_not_charged_for_a_lost_group) {
  limits.max_replays = 0;
  submit_text(1, 5, 8);
  planner().reset(2);
  run_steps(1);
  BOOST_TEST(tokens_of(1).size() == 1U);
}

BOOST_AUTO_TEST_CASE(what_is_not_to_be_trusted_is_recomputed_by_the_same_group) {
  limits.max_replays = 0;  // nobody lost a group
  submit_text(1, 5, 8);
  for (const int32_t token : {50, 51}) run_steps(1, token);
  const auto dropped = plan_step();
  planner().recompute();
  BOOST_TEST(planner().check() == "");
  BOOST_TEST(planner().statistics().blocks_held + planner().statistics().blocks_cached == 0);
  BOOST_TEST(!planner().complete(late_result(dropped, 52)));
  planned.clear();

  const auto step = plan_step();
  BOOST_TEST(step.epoch == dropped.epoch);
  BOOST_TEST(step.step == dropped.step + 1);
  BOOST_TEST(step.token_ids == numbers({200, 201, 202, 203, 204, 50, 51}),
             boost::test_tools::per_element());
  // What the blocks held is cleared before anybody begins them anew.
  BOOST_TEST(step.cleared_blocks.size() == dropped.block_tables.size());
  complete(53);
  BOOST_TEST(tokens_of(1) == numbers({50, 51, 53}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(ended_requests_in_flight_are_gone_after_a_reset) {
  submit_text(1, 5, 8);
  plan_step();
  planner().cancel(1);
  planner().reset(2);
  BOOST_TEST(planner().check() == "");
  BOOST_TEST(planner().statistics().blocks_free == 40);
}

BOOST_AUTO_TEST_SUITE_END()
