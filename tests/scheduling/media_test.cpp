// Visual rows: when they are asked for, mapped and given back.
#include "scheduling/planner_fixture.hpp"

#include <numeric>

namespace plan = troupe::plan;
using namespace troupe::scheduling;
using troupe::scheduling_test::planner_fixture;
using numbers = std::vector<int32_t>;

BOOST_FIXTURE_TEST_SUITE(media, planner_fixture)

BOOST_AUTO_TEST_CASE(a_request_waits_for_its_rows_and_lets_others_pass) {
  submit(picture_request(1, 8, 2, 2, 3));
  BOOST_TEST(count<want_media>(1) == 1);
  BOOST_TEST(!can_plan());
  submit_text(2, 4, 4);
  BOOST_TEST(plan_step().num_sequences() == 1);
  complete();
  BOOST_TEST(planner().statistics().waiting_for_media == 1);
  BOOST_TEST(planner().media_ready(1, {7, 5, 9}));
  const auto step = plan_step();
  BOOST_TEST(step.row_map == numbers({-1, -1, -1, 7, 5, 9, -1, -1, -1}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(rows_go_back_when_the_step_that_reads_the_last_is_complete) {
  submit(picture_request(1, 40, 2, 14, 4));  // tokens 14..17: two chunks
  BOOST_REQUIRE(planner().media_ready(1, {0, 1, 2, 3}));
  const auto first = plan_step();
  const auto second = plan_step();
  BOOST_TEST(first.row_map.back() == 1);
  BOOST_TEST(second.row_map[0] == 2);
  BOOST_TEST(second.row_map[1] == 3);
  complete();
  BOOST_TEST(count<release_media>(1) == 0);
  complete();
  BOOST_TEST(count<release_media>(1) == 1);
  while (can_plan()) complete();
  BOOST_TEST(count<release_media>(1) == 1);
}

BOOST_AUTO_TEST_CASE(a_cancelled_request_keeps_its_rows_while_a_step_reads_them) {
  submit(picture_request(1, 8, 2, 2, 3));
  BOOST_REQUIRE(planner().media_ready(1, {0, 1, 2}));
  plan_step();
  planner().cancel(1);
  BOOST_TEST(count<release_media>(1) == 0);
  complete();
  BOOST_TEST(count<release_media>(1) == 1);
}

BOOST_AUTO_TEST_CASE(an_order_is_taken_back_when_the_request_ends_first) {
  submit(picture_request(1, 8, 2, 2, 3));
  planner().cancel(1);
  BOOST_TEST(count<release_media>(1) == 1);
  BOOST_TEST(!planner().media_ready(1, {0, 1, 2}));
}

BOOST_AUTO_TEST_CASE(late_and_unknown_rows_are_not_taken) {
  BOOST_TEST(!planner().media_ready(1, {0}));
  submit(picture_request(1, 8, 2, 2, 3));
  BOOST_TEST(planner().media_ready(1, {0, 1, 2}));
  BOOST_TEST(!planner().media_ready(1, {0, 1, 2}));
  planner().media_failed(1, "too late");
  BOOST_TEST(count<request_ended>(1) == 0);
}

BOOST_AUTO_TEST_CASE(a_failed_picture_fails_its_request) {
  submit(picture_request(1, 8, 2, 2, 3));
  planner().media_failed(1, "not a PNG");
  BOOST_TEST(end_of(1)->detail == "not a PNG");
  BOOST_TEST((end_of(1)->reason == end_reason::failed));
  BOOST_TEST(count<release_media>(1) == 1);
}

BOOST_AUTO_TEST_CASE(rows_that_cannot_be_right_fail_the_request) {
  submit(picture_request(1, 8, 2, 2, 3));
  BOOST_TEST(!planner().media_ready(1, {0, 1}));
  BOOST_TEST(end_of(1)->detail == "2 visual rows, expected 3");
  submit(picture_request(2, 8, 2, 2, 3));
  BOOST_TEST(!planner().media_ready(2, {0, 1, 32}));
  BOOST_TEST(end_of(2)->detail == "visual row 32, expected 0 to 31");
}

BOOST_AUTO_TEST_CASE(a_cached_picture_is_not_asked_for) {
  submit(picture_request(1, 12, 1, 2, 3));
  BOOST_REQUIRE(planner().media_ready(1, {0, 1, 2}));
  run_steps(1);
  auto same = picture_request(9, 12, 1, 2, 3);
  same.prompt.token_ids = text_request(1, 12, 1).prompt.token_ids;
  auto other = same;
  other.id = 10;
  same.prompt.spans[0].digest = picture_request(1, 12, 1, 2, 3).prompt.spans[0].digest;
  submit(std::move(same));
  submit(std::move(other));  // the same ids, another picture
  BOOST_TEST(count<want_media>(9) == 0);
  BOOST_TEST(count<want_media>(10) == 1);
  run_steps(1);
  BOOST_TEST(end_of(9)->usage.cached_tokens == 8);
  BOOST_TEST(end_of(9)->usage.visual_tokens == 3);
}

// A hit may end inside a picture: the rest of its rows is still needed.
BOOST_AUTO_TEST_CASE(a_hit_inside_a_picture_maps_the_rest_of_its_rows) {
  submit(picture_request(1, 13, 1, 2, 9));  // tokens 2..10, blocks of 4
  BOOST_REQUIRE(planner().media_ready(1, {20, 21, 22, 23, 24, 25, 26, 27, 28}));
  run_steps(1);
  auto longer = picture_request(9, 11, 1, 2, 9);
  longer.prompt.token_ids = text_request(1, 11, 1).prompt.token_ids;
  longer.prompt.spans[0].digest[0] = 1;
  submit(std::move(longer));
  BOOST_TEST(count<want_media>(9) == 1);
  BOOST_REQUIRE(planner().media_ready(9, {3, 4, 5, 6, 7, 8, 9, 10, 11}));
  const auto step = plan_step();
  BOOST_TEST(step.row_map == numbers({9, 10, 11}), boost::test_tools::per_element());
  BOOST_TEST(step.context_lengths == numbers({11}), boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(after_a_lost_group_pictures_are_asked_for_again) {
  submit(picture_request(1, 8, 4, 2, 3));
  BOOST_REQUIRE(planner().media_ready(1, {0, 1, 2}));
  run_steps(2);
  BOOST_TEST(count<release_media>(1) == 1);
  planner().reset(2);
  BOOST_TEST(count<want_media>(1) == 2);
  BOOST_TEST(!can_plan());
  BOOST_REQUIRE(planner().media_ready(1, {4, 5, 6}));
  BOOST_TEST(plan_step().num_tokens() == 10);
}

BOOST_AUTO_TEST_CASE(rows_still_held_survive_a_lost_group) {
  submit(picture_request(1, 8, 4, 2, 3));
  BOOST_REQUIRE(planner().media_ready(1, {0, 1, 2}));
  plan_step();
  planned.clear();
  planner().reset(2);
  BOOST_TEST(count<want_media>(1) == 1);
  BOOST_TEST(plan_step().row_map[2] == 0);
}

BOOST_AUTO_TEST_SUITE_END()
