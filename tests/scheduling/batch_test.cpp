// What is in a step: decode first, chunks, mixed steps, two steps in flight, adjustments.
#include "scheduling/planner_fixture.hpp"

namespace plan = troupe::plan;
using namespace troupe::scheduling;
using troupe::scheduling_test::chunk_sizes;
using troupe::scheduling_test::planner_fixture;
using sizes = std::vector<int32_t>;

namespace {

/// A request whose penalties name its whole prompt in every step.
new_request penalised(request_id id, int32_t num_tokens, int32_t max_tokens) {
  auto request = planner_fixture::text_request(id, num_tokens, max_tokens);
  request.sampling.repetition_penalty = 1.5F;
  return request;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(batch, planner_fixture)

BOOST_AUTO_TEST_CASE(nothing_to_do_gives_no_step) {
  BOOST_TEST(!can_plan());
}

BOOST_AUTO_TEST_CASE(a_prompt_is_computed_at_once_and_its_last_token_sampled) {
  submit_text(1, 6, 3);
  const auto step = plan_step();
  BOOST_TEST(step.epoch == 1U);
  BOOST_TEST(step.step == 1U);
  BOOST_TEST(step.bucket_tokens == 8);
  BOOST_TEST(step.token_ids == sizes({200, 201, 202, 203, 204, 205}),
             boost::test_tools::per_element());
  BOOST_TEST(step.logit_rows == sizes({5}), boost::test_tools::per_element());
  BOOST_TEST(step.context_lengths == sizes({6}), boost::test_tools::per_element());
  BOOST_TEST(step.sampling[0].position == 6);
  BOOST_TEST(step.sampling[0].seed == 1U);
}

BOOST_AUTO_TEST_CASE(a_long_prompt_comes_in_chunks_and_only_the_last_is_sampled) {
  submit_text(1, 37, 3);
  for (const int32_t expected : {16, 16, 5}) {
    const auto step = plan_step();
    BOOST_TEST(chunk_sizes(step) == sizes({expected}), boost::test_tools::per_element());
    BOOST_TEST(step.num_rows() == (expected == 5 ? 1 : 0));
    complete();
  }
}

BOOST_AUTO_TEST_CASE(decodes_come_first_and_prefills_take_the_rest) {
  submit_text(1, 4, 8);
  submit_text(2, 4, 8);
  run_steps(1);
  submit_text(3, 40, 8);
  const auto step = plan_step();
  BOOST_TEST(chunk_sizes(step) == sizes({1, 1, 14}), boost::test_tools::per_element());
  BOOST_TEST(step.num_rows() == 2);
}

BOOST_AUTO_TEST_CASE(prefills_beside_decodes_keep_to_their_bound_and_alone_they_do_not) {
  limits.max_prefill_tokens_beside_decode = 3;
  submit_text(1, 12, 2);
  BOOST_TEST(chunk_sizes(plan_step()) == sizes({12}), boost::test_tools::per_element());
  complete();
  submit_text(2, 20, 8);
  BOOST_TEST(chunk_sizes(plan_step()) == sizes({1, 3}), boost::test_tools::per_element());
  complete();
  BOOST_TEST(chunk_sizes(plan_step()) == sizes({16}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(decodes_that_fill_the_step_leave_a_token_to_the_oldest_prompt) {
  limits.plan.max_num_batched_tokens = 2;
  limits.plan.token_buckets = {1, 2};
  submit(picture_request(1, 6, 4, 1, 2));
  for (const request_id id : {2, 3}) submit_text(id, 1, 30);
  run_steps(2);
  BOOST_REQUIRE(planner().media_ready(1, {0, 1}));
  for (int32_t computed = 1; computed <= 5; ++computed) {
    const auto step = plan_step();
    BOOST_TEST(chunk_sizes(step) == sizes({1, 1}), boost::test_tools::per_element());
    BOOST_TEST(step.context_lengths[1] == computed);
    complete();
  }
}

BOOST_AUTO_TEST_CASE(never_more_sequences_than_the_limit) {
  for (request_id id = 1; id <= 6; ++id) submit_text(id, 2, 8);
  BOOST_TEST(plan_step().num_sequences() == 4);
  complete();
  BOOST_TEST(plan_step().num_sequences() == 4);
  BOOST_TEST(planner().statistics().waiting == 2);
}

BOOST_AUTO_TEST_CASE(the_next_step_is_planned_before_the_tokens_are_known) {
  submit_text(1, 3, 8);
  submit_text(2, 5, 8);
  plan_step();
  const auto second = plan_step();
  BOOST_TEST(second.token_ids == sizes({-1, -2}), boost::test_tools::per_element());
  BOOST_TEST(second.context_lengths == sizes({4, 6}), boost::test_tools::per_element());
  BOOST_TEST(second.sampling[1].position == 6);
  BOOST_TEST(!can_plan());  // two are in flight
  complete_with({41, 42});
  const auto third = plan_step();
  BOOST_TEST(third.token_ids == sizes({-1, -2}), boost::test_tools::per_element());
  complete_with({43, 44});
  complete_with({45, 46});
  // With nothing in flight the ids themselves are planned.
  BOOST_TEST(plan_step().token_ids == sizes({45, 46}), boost::test_tools::per_element());
  BOOST_TEST(tokens_of(2) == sizes({42, 44, 46}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(nothing_is_planned_past_max_tokens) {
  submit_text(1, 3, 2);
  plan_step();
  plan_step();
  complete();
  BOOST_TEST(!can_plan());  // both of its tokens are sampled by the steps so far
  complete();
  BOOST_TEST(ended(end_reason::length) == std::vector<request_id>({1}),
             boost::test_tools::per_element());
  BOOST_TEST(planner().statistics().blocks_held == 0);
}

BOOST_AUTO_TEST_CASE(generated_tokens_are_placed_behind_the_prompt_by_the_rope_delta) {
  auto request = text_request(1, 6, 8);
  request.prompt.rope_delta = -2;
  for (auto& axis : request.prompt.positions) axis = {0, 1, 1, 1, 2, 3};
  submit(std::move(request));
  const auto first = plan_step();
  BOOST_TEST(first.positions == sizes({0, 1, 1, 1, 2, 3, 0, 1, 1, 1, 2, 3, 0, 1, 1, 1, 2, 3}),
             boost::test_tools::per_element());
  BOOST_TEST(plan_step().positions == sizes({4, 4, 4}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_token_of_the_step_before_counts_for_penalties) {
  auto request = text_request(1, 3, 8);
  request.sampling.frequency_penalty = 1;
  submit(std::move(request));
  BOOST_TEST(plan_step().sampling[0].input_index == -1);
  BOOST_TEST(plan_step().sampling[0].input_index == 0);
  complete(7);
  complete(7);
  const auto third = plan_step();
  BOOST_TEST(third.sampling[0].input_index == -1);
  BOOST_REQUIRE(third.adjustments.size() == 1U);
  BOOST_TEST(third.adjustments[0].token == 7);
  BOOST_TEST(third.adjustments[0].generated_count == 2);
}

BOOST_AUTO_TEST_CASE(a_postponed_request_is_in_the_next_step) {
  limits.plan.max_adjustments = 24;
  limits.plan.max_num_batched_tokens = 32;
  limits.plan.token_buckets = plan::make_token_buckets(32);
  BOOST_REQUIRE(!submit(penalised(1, 14, 8)).rejected);
  BOOST_REQUIRE(!submit(penalised(2, 14, 8)).rejected);
  std::vector<uint64_t> sampled;
  while (can_plan()) {
    BOOST_REQUIRE(planned.back().num_rows() <= 1);  // 28 adjustments would be needed for both
    for (const auto& row : planned.back().sampling) sampled.push_back(row.seed);
    complete(900);
  }
  BOOST_REQUIRE(sampled.size() == 16U);
  for (size_t i = 1; i < sampled.size(); ++i) BOOST_TEST(sampled[i] != sampled[i - 1]);
}

BOOST_AUTO_TEST_SUITE_END()
