// Requests whose client does not read.
#include "scheduling/planner_fixture.hpp"

namespace plan = troupe::plan;
using namespace troupe::scheduling;
using troupe::scheduling_test::planner_fixture;
using ids = std::vector<request_id>;

namespace {

/// Whether the request of this id, which is its seed, has a row in the step.
bool samples(const plan::step_plan& plan, request_id id) {
  for (const auto& row : plan.sampling)
    if (row.seed == id) return true;
  return false;
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(unread_answers, planner_fixture)

BOOST_AUTO_TEST_CASE(a_paused_request_leaves_its_place_to_others_and_comes_back) {
  limits.plan.max_num_seqs = 1;
  submit_text(1, 3, 8);
  submit_text(2, 3, 8);
  run_steps(2);
  planner().pause(1);
  BOOST_TEST(planner().statistics().paused == 1);
  BOOST_TEST(planner().statistics().blocks_held == 0);
  run_steps(4);
  BOOST_TEST(tokens_of(1).size() == 2U);
  BOOST_TEST(tokens_of(2).size() == 4U);
  planner().resume(1);
  BOOST_TEST(planner().statistics().paused == 0);
  while (can_plan()) complete();
  BOOST_TEST(tokens_of(1).size() == 8U);
  BOOST_TEST(tokens_of(2).size() == 8U);
  BOOST_TEST(count<request_ended>(1) == 1);
}

BOOST_AUTO_TEST_CASE(tokens_of_steps_in_flight_still_come) {
  submit_text(1, 3, 8);
  plan_step();
  plan_step();
  planner().pause(1);
  BOOST_TEST(!can_plan());
  BOOST_TEST(planner().statistics().paused == 0);  // on its way
  complete();
  complete();
  BOOST_TEST(tokens_of(1).size() == 2U);
  BOOST_TEST(planner().statistics().paused == 1);
  BOOST_TEST(planner().statistics().blocks_held == 0);
  BOOST_TEST(!can_plan());
}

BOOST_AUTO_TEST_CASE(resuming_before_the_steps_end_loses_nothing) {
  submit_text(1, 3, 8);
  plan_step();
  planner().pause(1);
  planner().resume(1);
  BOOST_TEST(!can_plan());  // its blocks are still being written
  complete();
  while (can_plan()) complete();
  BOOST_TEST(tokens_of(1).size() == 8U);
}

BOOST_AUTO_TEST_CASE(what_was_computed_is_found_again) {
  submit_text(1, 12, 8);
  run_steps(2);
  planner().pause(1);
  planner().resume(1);
  BOOST_TEST(plan_step().num_tokens() == 2);  // 14 tokens, 12 of them in cached blocks of 4
}

BOOST_AUTO_TEST_CASE(a_paused_request_holds_no_visual_rows) {
  submit(picture_request(1, 8, 4, 2, 4));
  BOOST_TEST(count<want_media>(1) == 1);
  planner().pause(1);
  BOOST_TEST(count<release_media>(1) == 1);
  BOOST_TEST(!planner().media_ready(1, {0, 1, 2, 3}));
  BOOST_TEST(!can_plan());
  planner().resume(1);
  BOOST_TEST(count<want_media>(1) == 2);
  BOOST_TEST(planner().media_ready(1, {0, 1, 2, 3}));
  while (can_plan()) complete();
  BOOST_TEST(tokens_of(1).size() == 4U);
}

BOOST_AUTO_TEST_CASE(a_paused_request_can_be_cancelled_and_passes_its_deadline) {
  for (request_id id = 1; id <= 2; ++id) {
    auto request = text_request(id, 3, 8);
    if (id == 2) request.deadline = now + std::chrono::seconds{1};
    submit(std::move(request));
  }
  run_steps(1);
  planner().pause(1);
  planner().pause(2);
  planner().pause(2);  // once more: no effect
  planner().cancel(1);
  planner().expire(now + std::chrono::seconds{2});
  BOOST_TEST(ended(end_reason::cancelled) == ids({1}), boost::test_tools::per_element());
  BOOST_TEST(ended(end_reason::deadline) == ids({2}), boost::test_tools::per_element());
  BOOST_TEST(planner().statistics().paused == 0);
  planner().resume(1);  // too late: no effect
  BOOST_TEST(!can_plan());
}

BOOST_AUTO_TEST_CASE(a_lost_group_does_not_wake_it) {
  submit_text(1, 3, 8);
  submit_text(2, 3, 8);
  plan_step();
  planner().pause(1);
  planner().reset(2);
  planned.clear();
  BOOST_TEST(planner().check() == "");
  BOOST_TEST(planner().statistics().paused == 1);
  const auto step = plan_step();
  BOOST_TEST(!samples(step, 1));
  BOOST_TEST(samples(step, 2));
  planner().resume(1);
  complete();
  while (can_plan()) complete();
  BOOST_TEST(tokens_of(1).size() == 8U);
}

BOOST_AUTO_TEST_SUITE_END()
