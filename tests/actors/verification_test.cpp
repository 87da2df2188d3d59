// Steps that also run without their graph: when, what a graph that differs leads to, and that
// clients get the right tokens.
#include "actors/scheduling/verification_schedule.hpp"
#include "engine_on_a_bench.hpp"

#include <boost/test/unit_test.hpp>
#include <caf/send.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>
#include <vector>

using namespace std::chrono_literals;
using namespace troupe;
using actors::step_order;
using testing::ending;
using testing::engine_bench;

namespace {

void require_right_answer(const engine_bench& bench, const actors::completion_request& request) {
  const auto& found = bench.of(request.id);
  BOOST_TEST_CONTEXT("request " << request.id << ": " << found.code << " " << found.message) {
    BOOST_TEST_REQUIRE((found.end == ending::finished));
    BOOST_TEST(found.tokens == bench.tokens_alone(request), boost::test_tools::per_element());
  }
}

/// Submits one request and runs it to its end.
std::shared_ptr<actors::completion_request> ask(engine_bench& bench, const std::string& text,
                                                int32_t tokens) {
  auto request = bench.text_request(text, tokens);
  bench.submit(request);
  bench.pass(100ms);
  return request;
}

int64_t steps_of(const engine_bench& bench, step_order order) {
  const auto found = bench.seen().orders.find(order);
  return found == bench.seen().orders.end() ? 0 : found->second;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(verification)

BOOST_AUTO_TEST_CASE(one_of_every_so_many_steps_is_chosen) {
  scheduling::verification_schedule never(0);
  scheduling::verification_schedule always(1);
  scheduling::verification_schedule some(4);
  std::vector<bool> chosen;
  for (int i = 0; i < 8; ++i) {
    BOOST_TEST(!never.verifies_next());
    BOOST_TEST(!never.wants_pause());
    BOOST_TEST(always.verifies_next());
    BOOST_TEST(!always.wants_pause());
    chosen.push_back(some.verifies_next());
  }
  BOOST_TEST(chosen == (std::vector<bool>{false, false, false, true, false, false, false, true}),
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_pause_is_taken_once_half_of_the_steps_went_by) {
  scheduling::verification_schedule some(4);
  for (const bool wanted : {false, false, true}) {
    BOOST_TEST(!some.verifies_next());
    BOOST_TEST(some.wants_pause() == wanted);
  }
  some.verified_in_pause();
  BOOST_TEST(!some.wants_pause());
  for (const bool chosen : {false, false, false, true}) BOOST_TEST(some.verifies_next() == chosen);
}

BOOST_AUTO_TEST_CASE(nothing_is_verified_unless_asked_for) {
  engine_bench bench;
  require_right_answer(bench, *ask(bench, "Hello", 20));
  BOOST_TEST(steps_of(bench, step_order::replay) == bench.seen().steps);
  BOOST_TEST(bench.status().verification.steps_verified == 0);
}

BOOST_AUTO_TEST_CASE(busy_steps_are_verified_as_they_run) {
  engine_bench bench({.verify_every = 5});
  require_right_answer(bench, *ask(bench, "Hello", 100));
  const auto verified = steps_of(bench, step_order::verified);
  BOOST_TEST(verified >= 100 / 5);
  BOOST_TEST(bench.status().verification.steps_verified ==
             verified + steps_of(bench, step_order::recheck));
  BOOST_TEST(bench.status().verification.mismatches == 0);
  BOOST_TEST(bench.seen().refused_plans.empty());
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(the_last_step_before_a_pause_is_verified_in_it) {
  engine_bench bench({.verify_every = 1'000});
  ask(bench, "Hello", 100);
  BOOST_TEST(steps_of(bench, step_order::recheck) == 0);
  const auto request = ask(bench, "Hello again", 250 - 100);
  ask(bench, "And again", 150);
  ask(bench, "And once more", 150);
  ask(bench, "A last time", 150);
  require_right_answer(bench, *request);
  BOOST_TEST(steps_of(bench, step_order::recheck) == 1);
  BOOST_TEST(steps_of(bench, step_order::verified) == 0);
  BOOST_TEST(bench.status().verification.steps_verified == 1);
  BOOST_TEST(bench.seen().refused_plans.empty());
  require_right_answer(bench, *ask(bench, "It goes on", 20));
}

BOOST_AUTO_TEST_CASE(a_step_that_read_visual_rows_is_not_repeated_in_a_pause) {
  engine_bench bench({.verify_every = 2});
  const auto request =
      bench.picture_request("green ring", 1);  // its prompt's last step is its last
  bench.submit(request);
  bench.pass(100ms);
  require_right_answer(bench, *request);
  BOOST_TEST(steps_of(bench, step_order::recheck) == 0);
}

BOOST_AUTO_TEST_CASE(with_every_step_verified_no_wrong_token_reaches_a_client) {
  for (const int32_t bucket : {1, 2, 16, 32}) {
    engine_bench bench({.verify_every = 1});
    const auto text = bench.text_request("Count from 3 to 15.", 20);
    const auto picture = bench.picture_request("green ring", 20);
    bench.submit(text);
    bench.submit(picture);
    bench.run_some(80);
    bench.fakes().broken_graphs.insert(bucket);
    bench.pass(100ms);
    const auto late = ask(bench, "What is 3 + 4?", 20);
    for (const auto& request : {text, picture, late}) require_right_answer(bench, *request);
    BOOST_TEST(bench.seen().epochs.size() == 1U);  // the group lives on
    BOOST_TEST(bench.seen().refused_plans.empty());
    BOOST_TEST(!bench.seen().ranks_saw_different_plans);
    BOOST_TEST(bench.idle());
    BOOST_REQUIRE_EQUAL(bench.check(), "");
    const auto found = bench.status().verification;
    BOOST_TEST(found.graphs_quarantined == (found.mismatches > 0 ? 1 : 0));
    if (bucket == 1) BOOST_TEST(found.mismatches > 0);
  }
}

BOOST_AUTO_TEST_CASE(a_graph_that_differs_is_not_used_again) {
  engine_bench bench({.verify_every = 3});
  bench.fakes().broken_graphs = {1};
  ask(bench, "Hello", 30);  // may have got wrong tokens before one was verified
  const auto found = bench.status().verification;
  BOOST_TEST(found.graphs_quarantined == 1);
  BOOST_TEST(found.mismatches >= 1);
  BOOST_TEST(steps_of(bench, step_order::eager) > 10);
  for (int i = 0; i < 3; ++i)
    require_right_answer(bench, *ask(bench, "Again " + std::to_string(i), 20));
  BOOST_TEST(bench.status().verification.mismatches == found.mismatches);
  BOOST_TEST(bench.seen().epochs.size() == 1U);
}

BOOST_AUTO_TEST_CASE(a_graph_that_differs_in_a_pause_is_not_used_again) {
  engine_bench bench({.verify_every = 20});
  bench.fakes().broken_graphs = {1};
  ask(bench, "Hello", 15);
  BOOST_TEST(steps_of(bench, step_order::recheck) == 1);
  BOOST_TEST(bench.status().verification.graphs_quarantined == 1);
  require_right_answer(bench, *ask(bench, "Hello", 15));  // the prefix cache is not trusted either
  BOOST_TEST(bench.idle());
  BOOST_REQUIRE_EQUAL(bench.check(), "");
}

/// A rank that is kept has the graphs it had; a group of new ranks has new ones.
BOOST_AUTO_TEST_CASE(a_graph_stays_quarantined_as_long_as_a_rank_may_have_it) {
  for (const bool all_die : {false, true}) {
    engine_bench bench({.verify_every = 1});
    bench.fakes().broken_graphs = {1};
    const auto request = bench.text_request("Hello", 60);
    bench.submit(request);
    bench.run_some(150);
    BOOST_TEST(bench.status().verification.graphs_quarantined == 1);
    bench.fakes().broken_graphs.clear();
    caf::anon_send_exit(bench.seen().shards.at(0), caf::exit_reason::kill);
    if (all_die) caf::anon_send_exit(bench.seen().shards.at(1), caf::exit_reason::kill);
    bench.pass(100ms);
    require_right_answer(bench, *request);
    BOOST_TEST(bench.status().recovery.ranks_kept == (all_die ? 0 : 1));
    BOOST_TEST(bench.status().verification.graphs_quarantined == (all_die ? 0 : 1));
    BOOST_TEST(bench.status().verification.mismatches >= 1);
  }
}

BOOST_AUTO_TEST_SUITE_END()
