#include "actors/errors.hpp"
#include "engine_on_a_bench.hpp"

#include <boost/test/unit_test.hpp>
#include <caf/send.hpp>

#include <chrono>

using namespace std::chrono_literals;
using namespace troupe;
using testing::ending;
using testing::engine_bench;

namespace {

void require_same_answer(const engine_bench& bench, const actors::completion_request& request) {
  const auto& found = bench.of(request.id);
  BOOST_TEST_CONTEXT("request " << request.id << ": " << found.code << " " << found.message) {
    BOOST_TEST_REQUIRE((found.end == ending::finished));
    BOOST_TEST(found.ends == 1);
    BOOST_TEST(found.tokens == bench.tokens_alone(request), boost::test_tools::per_element());
  }
}

/// Text and picture, as two requests that run together.
struct two_requests {
  explicit two_requests(engine_bench& bench, int32_t tokens = 20)
      : text(bench.text_request("Count from 3 to 15.", tokens)),
        picture(bench.picture_request("green ring", tokens)) {
    bench.submit(text);
    bench.submit(picture);
  }
  void require_same_answers(const engine_bench& bench) const {
    require_same_answer(bench, *text);
    require_same_answer(bench, *picture);
    BOOST_TEST(bench.idle());
    BOOST_REQUIRE_EQUAL(bench.check(), "");
  }
  std::shared_ptr<actors::completion_request> text, picture;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(group_life)

/// A shard that dies after any number of activations: the client sees a pause, but no token is lost or
/// repeated.
BOOST_AUTO_TEST_CASE(a_shard_that_dies_at_any_moment_is_not_noticed_in_the_answer) {
  int32_t rebuilt = 0;
  for (size_t jobs = 0; jobs < 160; jobs += 7) {
    engine_bench bench;
    two_requests requests(bench);
    bench.run_some(jobs);
    caf::anon_send_exit(bench.seen().shards.at(jobs % 2), caf::exit_reason::kill);
    bench.pass(100ms);
    requests.require_same_answers(bench);
    BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2}));
    BOOST_TEST(bench.seen().refused_plans.empty());
    rebuilt += bench.of(requests.text->id).tokens.size() == 20;
  }
  BOOST_TEST(rebuilt > 20);
}

BOOST_AUTO_TEST_CASE(a_silent_shard_is_lost_after_the_step_timeout) {
  engine_bench bench;
  bench.fakes().shards_are_silent = true;
  two_requests requests(bench);
  bench.run();
  BOOST_TEST(bench.of(requests.text->id).tokens.empty());
  bench.fakes().shards_are_silent = false;  // the next group's will speak
  bench.pass(4'900ms);
  BOOST_TEST(bench.seen().epochs.size() == 1U);
  bench.pass(200ms);
  requests.require_same_answers(bench);
  BOOST_TEST(bench.seen().epochs.size() == 2U);
}

BOOST_AUTO_TEST_CASE(ranks_that_sample_different_tokens_lose_the_group_before_a_client_sees_them) {
  engine_bench bench;
  bool lied = false;
  bench.fakes().on_step = [&](int32_t rank, actors::step_completed honest) {
    if (rank == 1 && honest.result.step == 6 && !std::exchange(lied, true))
      honest.result.tokens.front() ^= 1;
    return honest;
  };
  two_requests requests(bench);
  bench.pass(100ms);
  BOOST_TEST(lied);
  requests.require_same_answers(bench);
  BOOST_TEST(bench.seen().epochs.size() == 2U);
}

BOOST_AUTO_TEST_CASE(a_rank_that_ran_another_plan_loses_the_group) {
  engine_bench bench;
  bool lied = false;
  bench.fakes().on_step = [&](int32_t rank, actors::step_completed honest) {
    if (rank == 0 && honest.result.step == 4 && !std::exchange(lied, true)) ++honest.result.content.low;
    return honest;
  };
  two_requests requests(bench);
  bench.pass(100ms);
  BOOST_TEST(lied);
  requests.require_same_answers(bench);
}

BOOST_AUTO_TEST_CASE(a_refused_plan_loses_the_group) {
  engine_bench bench;
  bool refused = false;
  bench.fakes().on_step = [&](int32_t, actors::step_completed honest)
      -> caf::result<actors::step_completed> {
    if (honest.result.step == 3 && !std::exchange(refused, true))
      return actors::make_error(actors::engine_error::plan_refused, "stale graph");
    return honest;
  };
  two_requests requests(bench);
  bench.pass(100ms);
  BOOST_TEST(refused);
  requests.require_same_answers(bench);
}

BOOST_AUTO_TEST_CASE(a_plan_of_an_old_epoch_is_refused_and_has_no_effect) {
  engine_bench bench;
  two_requests requests(bench);
  bench.run_some(60);
  auto stale = std::make_shared<plan::step_plan>();
  stale->epoch = 77;
  stale->step = 1;
  caf::anon_send(bench.seen().shards.at(0), actors::run_step{stale});
  bench.pass(100ms);
  BOOST_REQUIRE(bench.seen().refused_plans.size() == 1U);
  BOOST_TEST(bench.seen().refused_plans[0] == "epoch 77, expected 1");
  requests.require_same_answers(bench);
  BOOST_TEST(bench.seen().epochs.size() == 1U);
}

BOOST_AUTO_TEST_CASE(a_loss_of_an_old_epoch_has_no_effect) {
  engine_bench bench;
  caf::anon_send(bench.supervisor, actors::group_lost{0, "long ago"});
  caf::anon_send(bench.scheduler, actors::group_lost{0, "long ago"});
  two_requests requests(bench);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST(bench.seen().epochs.size() == 1U);
}

// -- who stays ----------------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(who_did_not_lose_the_group_stays) {
  for (const size_t dead : {0U, 1U, 2U}) {
    engine_bench bench({.ranks = 3});
    const auto shards = bench.seen().shards;
    const auto tower = bench.seen().tower;
    two_requests requests(bench);
    bench.run_some(60);
    caf::anon_send_exit(shards[dead], caf::exit_reason::kill);
    bench.pass(100ms);
    requests.require_same_answers(bench);
    for (size_t rank = 0; rank < shards.size(); ++rank) {
      BOOST_TEST(bench.seen().launches[rank] == (rank == dead ? 2 : 1));
      BOOST_TEST((bench.seen().shards[rank] == shards[rank]) == (rank != dead));
    }
    BOOST_TEST((bench.seen().tower == tower) == (dead != 0));
    const auto recovery = bench.status().recovery;
    BOOST_TEST(recovery.groups_lost == 1);
    BOOST_TEST(recovery.ranks_kept == 2);
    BOOST_TEST(recovery.ranks_replaced == 1);
    BOOST_TEST(recovery.last_seconds < 0.2);
  }
}

BOOST_AUTO_TEST_CASE(a_picture_under_way_goes_on_when_its_tower_stays) {
  for (size_t jobs = 20; jobs < 60; jobs += 2) {
    engine_bench bench;
    bench.fakes().tower_is_silent = true;
    two_requests requests(bench);
    bench.run_some(jobs);
    caf::anon_send_exit(bench.seen().shards.at(1), caf::exit_reason::kill);
    bench.pass(100ms);
    BOOST_TEST((bench.of(requests.picture->id).end == ending::none));
    caf::anon_send(bench.seen().tower, caf::tick_atom::value);
    bench.pass(100ms);
    requests.require_same_answers(bench);
    BOOST_TEST(bench.seen().encoded.size() == 1U);
    BOOST_TEST((bench.seen().launches == std::vector<int32_t>{1, 2}));
  }
}

BOOST_AUTO_TEST_CASE(a_tower_that_outlived_a_group_is_still_watched) {
  engine_bench bench;
  caf::anon_send_exit(bench.seen().shards.at(1), caf::exit_reason::kill);
  bench.pass(100ms);
  bench.fakes().tower_loses_device = 1;
  two_requests requests(bench);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2, 3}));
  BOOST_TEST((bench.seen().launches == std::vector<int32_t>{2, 2}));
}

BOOST_AUTO_TEST_CASE(nobody_stays_where_ranks_disagree) {
  engine_bench bench;
  bool lied = false;
  bench.fakes().on_step = [&](int32_t rank, actors::step_completed honest) {
    if (rank == 1 && !std::exchange(lied, true)) ++honest.result.content.low;
    return honest;
  };
  two_requests requests(bench);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST((bench.seen().launches == std::vector<int32_t>{2, 2}));
  BOOST_TEST(bench.status().recovery.ranks_kept == 0);
}

/// Whose device or memory failed is started anew.
BOOST_AUTO_TEST_CASE(a_rank_that_fails_by_itself_goes_and_the_others_stay) {
  engine_bench bench;
  bool failed = false;
  bench.fakes().on_step = [&](int32_t rank, actors::step_completed honest)
      -> caf::result<actors::step_completed> {
    if (rank == 1 && honest.result.step == 4 && !std::exchange(failed, true))
      return actors::make_error(actors::engine_error::device_failed, "a copy failed");
    return honest;
  };
  two_requests requests(bench);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST((bench.seen().launches == std::vector<int32_t>{1, 2}));
}

BOOST_AUTO_TEST_CASE(who_waited_for_a_late_rank_stays_and_so_does_the_late_one_if_it_answers) {
  for (const bool answers : {true, false}) {
    engine_bench bench;
    bool late = false;
    bench.fakes().on_step = [&](int32_t rank, actors::step_completed honest)
        -> caf::result<actors::step_completed> {
      if (rank == 0 && honest.result.step == 4 && !std::exchange(late, true))
        return actors::make_error(actors::engine_error::peer_lost, "a peer was later than 30000 ms");
      return honest;
    };
    if (!answers) bench.fakes().silent_to_join = {1};
    two_requests requests(bench);
    bench.pass(9'900ms);
    if (!answers) BOOST_TEST(bench.seen().launches[1] == 1);  // it may still answer
    bench.pass(4'000ms);
    requests.require_same_answers(bench);
    BOOST_TEST((bench.seen().launches == std::vector<int32_t>{1, answers ? 1 : 2}));
    BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2}));
    BOOST_TEST(bench.status().recovery.ranks_kept == (answers ? 2 : 1));
  }
}

BOOST_AUTO_TEST_CASE(a_group_that_is_late_again_soon_is_made_anew) {
  engine_bench bench;
  int32_t late = 0;
  bench.fakes().on_step = [&](int32_t rank, actors::step_completed honest)
      -> caf::result<actors::step_completed> {
    if (rank == 0 && honest.result.step == 4 && late++ < 2)
      return actors::make_error(actors::engine_error::peer_lost, "a peer was later than 30000 ms");
    return honest;
  };
  two_requests requests(bench);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2, 3}));
  BOOST_TEST((bench.seen().launches == std::vector<int32_t>{2, 2}));
}

/// The tower goes with its shard, and the encoder hears of it, although it was not told of the loss at first.
BOOST_AUTO_TEST_CASE(who_refuses_to_join_is_started_anew_in_the_same_group) {
  for (const int32_t refusing : {0, 1}) {
    engine_bench bench({.ranks = 3});
    bench.fakes().refuse_to_join = {refusing};
    bench.fakes().tower_is_silent = true;
    two_requests requests(bench);
    bench.run_some(50);
    caf::anon_send_exit(bench.seen().shards.at(2), caf::exit_reason::kill);
    bench.run();
    bench.fakes().tower_is_silent = false;
    caf::anon_send(bench.seen().tower, caf::tick_atom::value);
    bench.pass(100ms);
    requests.require_same_answers(bench);
    BOOST_TEST(bench.seen().joins_refused == 1);
    BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2}));
    const std::vector<int32_t> launches{1 + (refusing == 0), 1 + (refusing == 1), 2};
    BOOST_TEST((bench.seen().launches == launches));
    BOOST_TEST(bench.status().recovery.groups_lost == 1);
  }
}

BOOST_AUTO_TEST_CASE(a_new_rank_that_does_not_join_loses_the_group_again) {
  engine_bench bench;
  bench.fakes().refuse_to_join = {1};
  two_requests requests(bench);
  bench.run_some(60);
  caf::anon_send_exit(bench.seen().shards.at(1), caf::exit_reason::kill);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2, 3}));
  BOOST_TEST((bench.seen().launches == std::vector<int32_t>{1, 3}));
}

BOOST_AUTO_TEST_CASE(ranks_may_die_while_they_join) {
  for (size_t jobs = 0; jobs < 40; ++jobs) {
    engine_bench bench({.ranks = 3});
    two_requests requests(bench);
    bench.run_some(60);
    caf::anon_send_exit(bench.seen().shards.at(jobs % 3), caf::exit_reason::kill);
    bench.run_some(jobs);
    caf::anon_send_exit(bench.seen().shards.at((jobs + 1) % 3), caf::exit_reason::kill);
    bench.pass(100ms);
    requests.require_same_answers(bench);
    BOOST_TEST(bench.seen().refused_plans.empty());
  }
}

// -- what makes a group -------------------------------------------------------------------------------------

BOOST_AUTO_TEST_CASE(ranks_must_have_captured_the_same_graphs) {
  engine_bench bench;
  bench.fakes().graphs = [](int32_t rank, uint64_t epoch) {
    return gpu::digest128{1, epoch == 2 ? static_cast<uint64_t>(rank) : 0};
  };
  caf::anon_send_exit(bench.seen().shards.at(0), caf::exit_reason::kill);
  two_requests requests(bench);
  bench.pass(100ms);
  requests.require_same_answers(bench);
  BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2, 3}));
}

BOOST_AUTO_TEST_CASE(a_group_lost_three_times_in_a_minute_fails_the_engine) {
  engine_bench bench;
  two_requests requests(bench, 100);
  for (int32_t loss = 0; loss < 3; ++loss) {
    bench.run_some(50);
    caf::anon_send_exit(bench.seen().shards.at(1), caf::exit_reason::kill);
    bench.run_some(50);
  }
  bench.pass(100ms);
  for (const auto id : {requests.text->id, requests.picture->id}) {
    BOOST_TEST((bench.of(id).end == ending::failed));
    BOOST_TEST(bench.of(id).ends == 1);
    BOOST_TEST(bench.of(id).http_status == 500);
  }
  BOOST_TEST((bench.status().phase == actors::engine_phase::failed));
  BOOST_TEST(bench.status().detail.find("3 groups lost within 60 s") != std::string::npos);
  const auto late = bench.text_request("Hello", 3);
  bench.submit(late);
  bench.run();
  BOOST_TEST((bench.of(late->id).end == ending::rejected));
  BOOST_TEST(bench.of(late->id).http_status == 503);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(losses_far_apart_do_not_fail_the_engine) {
  engine_bench bench;
  for (int32_t loss = 0; loss < 5; ++loss) {
    const auto request = bench.text_request("Hello " + std::to_string(loss), 6);
    bench.submit(request);
    bench.run_some(30);
    caf::anon_send_exit(bench.seen().shards.at(0), caf::exit_reason::kill);
    bench.pass(31s, 1s);
    require_same_answer(bench, *request);
  }
  BOOST_TEST(bench.seen().epochs.size() == 6U);
}

BOOST_AUTO_TEST_CASE(without_a_group_cancellation_and_deadline_still_work) {
  engine_bench bench({.request_deadline = 2'000ms});
  bench.fakes().shards_are_silent = true;
  two_requests requests(bench, 100);
  bench.run();
  bench.cancel(requests.text->id);
  caf::anon_send_exit(bench.seen().shards.at(0), caf::exit_reason::kill);
  bench.run();
  BOOST_TEST((bench.of(requests.text->id).end == ending::cancelled));
  bench.pass(2'100ms);
  BOOST_TEST((bench.of(requests.picture->id).end == ending::failed));
  BOOST_TEST(bench.of(requests.picture->id).http_status == 408);
  bench.pass(5'000ms);  // the new group was silent too: its step times out and gives up its blocks
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(while_a_group_is_rebuilt_the_engine_is_not_ready_but_takes_requests) {
  engine_bench bench;
  BOOST_TEST((bench.status().phase == actors::engine_phase::ready));
  caf::anon_send_exit(bench.seen().shards.at(0), caf::exit_reason::kill);
  for (int32_t i = 0; i < 30 && bench.status().phase == actors::engine_phase::ready; ++i) bench.run_some(1);
  const auto request = bench.text_request("Hello", 5);
  bench.submit(request);
  bench.pass(100ms);
  require_same_answer(bench, *request);
  BOOST_TEST((bench.status().phase == actors::engine_phase::ready));
}

/// A tower that dies after any number of activations: what it had not encoded, the next one encodes.
BOOST_AUTO_TEST_CASE(a_vision_tower_that_dies_at_any_moment_is_not_noticed_in_the_answer) {
  int32_t encoded_twice = 0;
  for (size_t jobs = 0; jobs < 100; jobs += 3) {
    engine_bench bench;
    bench.fakes().tower_is_silent = true;  // dies with the picture under way, if it has come so far
    two_requests requests(bench);
    bench.run_some(jobs);
    bench.fakes().tower_is_silent = false;
    caf::anon_send_exit(bench.seen().tower, caf::exit_reason::kill);
    bench.pass(100ms);
    requests.require_same_answers(bench);
    BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2}));
    encoded_twice += bench.seen().encoded.size() == 2U;
  }
  BOOST_TEST(encoded_twice > 10);
}

BOOST_AUTO_TEST_CASE(rows_that_a_lost_tower_filled_stay_valid) {
  engine_bench bench;
  const auto first = bench.picture_request("green ring", 5);
  bench.submit(first);
  bench.run();
  caf::anon_send_exit(bench.seen().tower, caf::exit_reason::kill);
  bench.pass(100ms);
  const auto second = bench.picture_request("green ring", 8);
  bench.submit(second);
  bench.run();
  require_same_answer(bench, *first);
  require_same_answer(bench, *second);
  BOOST_TEST(bench.seen().encoded.size() == 1U);
  BOOST_TEST(bench.seen().epochs.size() == 2U);
}

BOOST_AUTO_TEST_CASE(a_clip_larger_than_a_slot_survives_its_tower) {
  for (size_t jobs = 20; jobs < 60; jobs += 2) {
    engine_bench bench;
    const auto clip = bench.clip_request("falling ball", 5, 6);
    const auto picture = bench.picture_request("green ring", 6);
    bench.submit(clip);
    bench.submit(picture);
    bench.run_some(jobs);
    caf::anon_send_exit(bench.seen().tower, caf::exit_reason::kill);
    bench.pass(100ms);
    require_same_answer(bench, *clip);
    require_same_answer(bench, *picture);
    BOOST_TEST(bench.idle());
  }
}

BOOST_AUTO_TEST_CASE(a_tower_or_a_shard_that_loses_its_device_is_replaced_with_its_process) {
  for (const bool of_tower : {true, false}) {
    engine_bench bench;
    bench.fakes().tower_loses_device = of_tower ? 1 : 0;
    bool lost = of_tower;
    bench.fakes().on_step = [&](int32_t, actors::step_completed honest)
        -> caf::result<actors::step_completed> {
      if (honest.result.step == 4 && !std::exchange(lost, true))
        return actors::make_error(actors::engine_error::device_lost, "illegal address");
      return honest;
    };
    two_requests requests(bench);
    bench.pass(100ms);
    BOOST_TEST(lost);
    requests.require_same_answers(bench);
    BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2}));
  }
}

BOOST_AUTO_TEST_CASE(a_device_that_this_process_lost_fails_the_engine_and_says_why) {
  for (const bool of_tower : {true, false}) {
    engine_bench bench({.isolated = false});
    bench.fakes().tower_loses_device = of_tower ? 1 : 0;
    if (!of_tower)
      bench.fakes().on_step = [](int32_t, const actors::step_completed&)
          -> caf::result<actors::step_completed> {
        return actors::make_error(actors::engine_error::device_lost, "illegal address");
      };
    two_requests requests(bench);
    bench.pass(100ms);
    const auto status = bench.status();
    BOOST_TEST((status.phase == actors::engine_phase::failed));
    BOOST_TEST(status.detail.find("device lost") != std::string::npos, status.detail);
    BOOST_TEST(status.detail.find("parallel.isolation") != std::string::npos, status.detail);
    BOOST_TEST(bench.seen().epochs.size() == 1U);
    BOOST_TEST((bench.of(requests.text->id).end == ending::failed));
    BOOST_TEST((bench.of(requests.picture->id).end == ending::failed));
    BOOST_TEST(bench.idle());
  }
}

/// The picture may be the reason: it fails alone, before a third loss would fail the engine.
BOOST_AUTO_TEST_CASE(a_picture_that_two_towers_were_lost_with_is_given_up) {
  engine_bench bench;
  bench.fakes().tower_loses_device = 2;
  two_requests requests(bench);
  bench.pass(100ms);
  require_same_answer(bench, *requests.text);
  BOOST_TEST((bench.of(requests.picture->id).end == ending::failed));
  BOOST_TEST(bench.of(requests.picture->id).ends == 1);
  BOOST_TEST((bench.seen().epochs == std::vector<uint64_t>{1, 2, 3}));
  const auto again = bench.picture_request("green ring", 5);
  bench.submit(again);
  bench.run();
  require_same_answer(bench, *again);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(a_silent_tower_is_lost_after_its_time) {
  engine_bench bench({.request_deadline = 3'600'000ms});
  bench.fakes().tower_is_silent = true;
  two_requests requests(bench);
  bench.run();
  bench.fakes().tower_is_silent = false;
  bench.pass(599s, 1s);
  BOOST_TEST(bench.seen().epochs.size() == 1U);
  bench.pass(2s, 100ms);
  requests.require_same_answers(bench);
  BOOST_TEST(bench.seen().epochs.size() == 2U);
}

BOOST_AUTO_TEST_CASE(an_actor_that_cannot_be_replaced_fails_the_engine) {
  engine_bench bench;
  two_requests requests(bench, 100);
  bench.run_some(40);
  caf::anon_send_exit(bench.encoder, caf::exit_reason::kill);
  bench.pass(100ms);
  BOOST_TEST((bench.status().phase == actors::engine_phase::failed));
  BOOST_TEST(bench.status().detail == "the vision encoder ended");
  BOOST_TEST(bench.of(requests.text->id).ends == 1);
  BOOST_TEST(bench.of(requests.picture->id).ends == 1);
}

BOOST_AUTO_TEST_CASE(a_dead_supervisor_fails_the_engine) {
  engine_bench bench;
  caf::anon_send_exit(bench.supervisor, caf::exit_reason::kill);
  bench.run();
  BOOST_TEST((bench.status().phase == actors::engine_phase::failed));
}

BOOST_AUTO_TEST_SUITE_END()
