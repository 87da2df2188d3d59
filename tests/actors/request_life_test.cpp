#include "engine_on_a_bench.hpp"

#include <boost/test/unit_test.hpp>

#include <chrono>

using namespace std::chrono_literals;
using namespace troupe;
using testing::bench_options;
using testing::ending;
using testing::engine_bench;

namespace {

void require_finished(const engine_bench& bench, const actors::completion_request& request) {
  const auto& found = bench.of(request.id);
  BOOST_TEST_CONTEXT("request " << request.id << ": " << found.code << " " << found.message) {
    BOOST_TEST_REQUIRE((found.end == ending::finished));
    BOOST_TEST(found.ends == 1);
    BOOST_TEST(found.tokens == bench.tokens_alone(request), boost::test_tools::per_element());
  }
}

void require_books_balance(const engine_bench& bench) { BOOST_REQUIRE_EQUAL(bench.check(), ""); }

}  // namespace

BOOST_AUTO_TEST_SUITE(request_life)

BOOST_AUTO_TEST_CASE(a_text_request_is_answered) {
  engine_bench bench;
  const auto request = bench.text_request("Count from 20 to 31.", 12);
  bench.submit(request);
  bench.run();
  require_finished(bench, *request);
  const auto& finished = bench.of(request->id).finished;
  BOOST_TEST((finished.reason == actors::finish_reason::length));
  BOOST_TEST(finished.usage.completion_tokens == 12);
  BOOST_TEST(finished.usage.visual_tokens == 0);
  BOOST_TEST(finished.usage.prompt_tokens > 10);
  BOOST_TEST(bench.idle());
  require_books_balance(bench);
}

BOOST_AUTO_TEST_CASE(a_picture_request_is_answered) {
  engine_bench bench;
  const auto request = bench.picture_request("red circle", 10);
  bench.submit(request);
  bench.run();
  require_finished(bench, *request);
  BOOST_TEST(bench.of(request->id).finished.usage.visual_tokens == 9);
  BOOST_TEST(bench.seen().encoded.size() == 1U);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(the_same_answers_alone_and_in_a_crowd) {
  engine_bench bench({.max_num_seqs = 3, .max_num_batched_tokens = 16});
  std::vector<std::shared_ptr<actors::completion_request>> requests;
  for (int32_t i = 0; i < 10; ++i) {
    const auto name = std::to_string(i);
    requests.push_back(i % 2 == 0 ? bench.text_request("What is " + name + " plus 2?", 5 + i)
                                  : bench.picture_request("picture " + name, 5 + i));
    bench.submit(requests.back());
  }
  bench.run();
  for (const auto& request : requests) require_finished(bench, *request);
  BOOST_TEST(bench.idle());
  require_books_balance(bench);
}

BOOST_AUTO_TEST_CASE(one_picture_of_many_requests_is_encoded_once) {
  engine_bench bench;
  std::vector<std::shared_ptr<actors::completion_request>> requests;
  for (int32_t i = 0; i < 4; ++i) {
    requests.push_back(bench.picture_request("same", 4 + i));
    bench.submit(requests.back());
  }
  bench.run();
  for (const auto& request : requests) require_finished(bench, *request);
  BOOST_TEST(bench.seen().encoded.size() == 1U);
  const auto status = bench.status();
  BOOST_TEST(status.images_encoded == 1);
  BOOST_TEST(status.vision_rows_used == 0);
  BOOST_TEST(status.vision_rows_total == 64);
}

BOOST_AUTO_TEST_CASE(more_pictures_than_the_pool_holds_wait_their_turn) {
  engine_bench bench({.visual_pool_rows = 20});  // two pictures of 9 rows
  std::vector<std::shared_ptr<actors::completion_request>> requests;
  for (int32_t i = 0; i < 8; ++i) {
    requests.push_back(bench.picture_request("picture " + std::to_string(i), 6));
    bench.submit(requests.back());
  }
  bench.run();
  for (const auto& request : requests) require_finished(bench, *request);
  BOOST_TEST(bench.idle());
  require_books_balance(bench);
}

BOOST_AUTO_TEST_CASE(with_few_kv_blocks_everybody_still_finishes) {
  // Four requests of about 22 + 30 tokens share 24 blocks of 4: not even two fit at full length.
  engine_bench bench({.num_blocks = 25, .max_model_len = 96});
  std::vector<std::shared_ptr<actors::completion_request>> requests;
  for (int32_t i = 0; i < 4; ++i) {
    requests.push_back(bench.text_request("What is " + std::to_string(i) + " plus 2?", 30));
    bench.submit(requests.back());
  }
  bench.run();
  for (const auto& request : requests) require_finished(bench, *request);
  BOOST_TEST(bench.status().planner.preemptions > 0);
  BOOST_TEST(bench.idle());
  require_books_balance(bench);
}

/// Cancels after every possible number of actor activations: whatever phase the request is in, it ends
/// once, takes nothing with it, and its neighbour does not notice.
BOOST_AUTO_TEST_CASE(cancelling_at_every_phase_ends_a_request_once) {
  int32_t cancelled = 0, finished = 0;
  for (size_t jobs = 0; finished < 3; ++jobs) {
    engine_bench bench({.max_num_batched_tokens = 16});
    const auto neighbour = bench.picture_request("neighbour", 9);
    const auto victim = bench.picture_request("victim", 9);
    bench.submit(neighbour);
    bench.submit(victim);
    bench.run_some(jobs);
    bench.cancel(victim->id);
    bench.run();
    require_finished(bench, *neighbour);
    const auto& found = bench.of(victim->id);
    BOOST_TEST_REQUIRE(found.ends == 1);
    BOOST_TEST_REQUIRE((found.end == ending::cancelled || found.end == ending::finished));
    // What was heard before the cancellation is the beginning of the whole answer.
    const auto whole = bench.tokens_alone(*victim);
    BOOST_TEST_REQUIRE(found.tokens.size() <= whole.size());
    BOOST_TEST(std::equal(found.tokens.begin(), found.tokens.end(), whole.begin()));
    BOOST_TEST_REQUIRE(bench.idle());
    require_books_balance(bench);
    (found.end == ending::cancelled ? cancelled : finished) += 1;
    bench.cancel(victim->id);  // once more: no effect
    bench.run();
    BOOST_TEST_REQUIRE(bench.of(victim->id).ends == 1);
  }
  BOOST_TEST(cancelled > 20);
}

BOOST_AUTO_TEST_CASE(a_client_that_dies_at_any_phase_frees_what_its_request_held) {
  for (size_t jobs = 0; jobs < 60; jobs += 3) {
    engine_bench bench;
    const auto request = bench.picture_request("orphan", 40);
    bench.submit(request);
    bench.run_some(jobs);
    bench.kill_sink(request->id);
    bench.run();
    BOOST_TEST_REQUIRE(bench.idle());
    require_books_balance(bench);
  }
}

BOOST_AUTO_TEST_CASE(a_request_paused_at_any_phase_disturbs_nobody_and_goes_on_where_it_was) {
  for (size_t jobs = 0; jobs < 60; jobs += 3) {
    engine_bench bench({.max_num_seqs = 1});
    const auto paused = bench.picture_request("left unread", 30);
    bench.submit(paused);
    bench.run_some(jobs);
    bench.pause(paused->id);
    bench.run();
    const bool over = bench.of(paused->id).ends == 1;
    const auto heard = bench.of(paused->id).tokens.size();
    const auto other = bench.text_request("What is 1 plus 2?", 10);
    bench.submit(other);
    bench.pass(1s);
    require_finished(bench, *other);
    BOOST_TEST_REQUIRE(bench.of(paused->id).ends == (over ? 1 : 0));
    BOOST_TEST_REQUIRE(bench.of(paused->id).tokens.size() == heard);
    require_books_balance(bench);
    bench.resume(paused->id);
    bench.run();
    require_finished(bench, *paused);
    BOOST_TEST_REQUIRE(bench.idle());
  }
}

BOOST_AUTO_TEST_CASE(a_prompt_too_long_to_count_is_the_clients_mistake) {
  engine_bench bench;
  const auto request = bench.picture_request("endless", 1);
  request->media.front().grid = {1, 92'680, 92'680};
  auto& content = request->chat.messages.front().content;
  content.insert(content.begin(), 2, content.front());
  bench.submit(request);
  bench.run();
  const auto& found = bench.of(request->id);
  BOOST_TEST((found.end == ending::rejected));
  BOOST_TEST(found.http_status == 400);
  BOOST_TEST(found.message.find("tokens, expected at most 2147483647") != std::string::npos, found.message);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(logits_that_are_not_finite_end_their_request_alone) {
  engine_bench bench({.num_blocks = 60});
  const auto broken = bench.text_request("What is 1 plus 2?", 20);
  broken->sampling.seed = 99;
  const auto beside = bench.text_request("What is 2 plus 2?", 20);
  const auto alone = bench.tokens_alone(*broken);
  bench.submit(broken);
  bench.submit(beside);
  bench.run_some(30);
  for (int64_t place = 0; place < 256; ++place)  // from its next token on
    bench.fakes().broken_logits.push_back({99, place});
  bench.run();
  const auto& found = bench.of(broken->id);
  BOOST_TEST((found.end == ending::failed));
  BOOST_TEST(found.http_status == 500);
  BOOST_TEST(found.message.find("were not finite") != std::string::npos, found.message);
  BOOST_TEST_REQUIRE(found.tokens.size() < alone.size());
  BOOST_TEST(std::equal(found.tokens.begin(), found.tokens.end(), alone.begin()));
  require_finished(bench, *beside);
  // The same prompt finds nothing of it in the cache; the toy shards look that its blocks were cleared.
  const auto again = bench.text_request("What is 1 plus 2?", 20);
  bench.submit(again);
  bench.run();
  require_finished(bench, *again);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(a_stop_text_ends_the_request_and_never_leaves) {
  engine_bench bench;
  const auto whole = bench.text_request("Tell me something.", 40);
  bench.submit(whole);
  bench.run();
  const auto text = bench.of(whole->id).text;
  BOOST_REQUIRE(text.size() > 8);
  const auto stopped = bench.text_request("Tell me something.", 40);
  stopped->stop = {text.substr(text.size() / 2, 3)};
  bench.submit(stopped);
  bench.run();
  const auto& found = bench.of(stopped->id);
  BOOST_TEST((found.end == ending::finished));
  BOOST_TEST((found.finished.reason == actors::finish_reason::stop));
  BOOST_TEST(found.text == text.substr(0, text.find(stopped->stop[0])));
  BOOST_TEST(found.finished.usage.completion_tokens < 40);
  BOOST_TEST(bench.idle());
  require_books_balance(bench);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(request_refusal)

BOOST_AUTO_TEST_CASE(a_prompt_over_the_context_is_refused_with_its_counts) {
  engine_bench bench;
  const auto request = bench.picture_request("large", 250);
  bench.submit(request);
  bench.run();
  const auto& found = bench.of(request->id);
  BOOST_TEST((found.end == ending::rejected));
  BOOST_TEST(found.http_status == 400);
  BOOST_TEST(found.code == "context_length_exceeded");
  BOOST_TEST(found.message.find("9 image") != std::string::npos);
  BOOST_TEST(found.message.find("256 tokens") != std::string::npos);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(without_a_wish_the_rest_of_the_context_is_generated) {
  engine_bench bench({.max_model_len = 40});
  const auto request = bench.text_request("What can you do?", 0);
  bench.submit(request);
  bench.run();
  const auto& found = bench.of(request->id);
  BOOST_TEST((found.end == ending::finished));
  BOOST_TEST(found.finished.usage.prompt_tokens + found.finished.usage.completion_tokens == 40);
}

BOOST_AUTO_TEST_CASE(a_broken_picture_refuses_its_request_alone) {
  engine_bench bench;
  bench.fakes().refuse_pictures = actors::refusal{400, "invalid_image", "the picture is corrupt"};
  const auto broken = bench.picture_request("broken", 5);
  const auto text = bench.text_request("What can you do?", 5);
  bench.submit(broken);
  bench.submit(text);
  bench.run();
  BOOST_TEST((bench.of(broken->id).end == ending::rejected));
  BOOST_TEST(bench.of(broken->id).http_status == 400);
  BOOST_TEST(bench.of(broken->id).code == "invalid_image");
  require_finished(bench, *text);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(more_rows_than_the_pool_has_are_refused) {
  engine_bench bench({.visual_pool_rows = 8});
  const auto request = bench.picture_request("nine rows", 5);
  bench.submit(request);
  bench.run();
  BOOST_TEST((bench.of(request->id).end == ending::rejected));
  BOOST_TEST(bench.of(request->id).http_status == 400);
  BOOST_TEST(bench.of(request->id).code == "invalid_image");
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(raw_ids_outside_the_vocabulary_or_for_pictures_are_refused) {
  engine_bench bench;
  for (const int32_t bad : {-1, 640, 1 << 30, 560}) {
    auto request = bench.text_request("", 5);
    request->prompt_ids = {1, 2, bad};
    bench.submit(request);
    bench.run();
    BOOST_TEST((bench.of(request->id).end == ending::rejected));
    BOOST_TEST(bench.of(request->id).code == "invalid_value");
    const auto& why = bench.of(request->id).message;
    BOOST_TEST(why.starts_with("prompt token 2 is "));
    BOOST_TEST(why.find(std::to_string(bad)) != std::string::npos);
  }
}

BOOST_AUTO_TEST_CASE(a_media_index_without_media_is_refused) {
  engine_bench bench;
  auto request = bench.picture_request("lost", 5);
  request->media.clear();
  bench.submit(request);
  bench.run();
  BOOST_TEST((bench.of(request->id).end == ending::rejected));
  BOOST_TEST(bench.of(request->id).http_status == 400);
}

BOOST_AUTO_TEST_CASE(a_full_queue_refuses_with_a_time_to_come_back) {
  engine_bench bench({.max_num_seqs = 1, .max_waiting_requests = 2});
  std::vector<actors::request_id> ids;
  for (int32_t i = 0; i < 8; ++i) ids.push_back(bench.submit(bench.text_request("Hello", 20)));
  bench.run();
  int32_t refused = 0;
  for (const auto id : ids) {
    const auto& found = bench.of(id);
    BOOST_TEST(found.ends == 1);
    if (found.end != ending::rejected) continue;
    ++refused;
    BOOST_TEST(found.http_status == 429);
    BOOST_TEST(found.code == "queue_full");
  }
  BOOST_TEST(refused > 0);
  BOOST_TEST(refused < 8);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(preparation_is_bounded_too) {
  engine_bench bench({.max_preparing_requests = 2});
  std::vector<actors::request_id> ids;
  for (int32_t i = 0; i < 5; ++i) ids.push_back(bench.submit(bench.picture_request("p", 3)));
  bench.run_some(6);  // sinks and the gateway: all five are at the door, two are let in
  bench.run();
  int32_t refused = 0;
  for (const auto id : ids) refused += bench.of(id).http_status == 429;
  BOOST_TEST(refused == 3);
}

BOOST_AUTO_TEST_CASE(one_id_cannot_run_twice) {
  engine_bench bench;
  const auto request = bench.text_request("Hello", 30);
  bench.submit(request);
  bench.run_some(3);
  const auto first = bench.of(request->id).ends;
  BOOST_TEST(first == 0);
  auto again = std::make_shared<actors::completion_request>(*request);
  bench.submit(again);
  bench.run();
  BOOST_TEST((bench.of(request->id).end == ending::rejected));
  BOOST_TEST(bench.of(request->id).http_status == 500);
  BOOST_TEST(bench.idle());
}

BOOST_AUTO_TEST_CASE(a_request_past_its_deadline_fails_wherever_it_is) {
  engine_bench bench({.request_deadline = 1'000ms});
  bench.fakes().tower_is_silent = true;
  const auto request = bench.picture_request("never encoded", 5);
  bench.submit(request);
  bench.run();
  BOOST_TEST(bench.of(request->id).ends == 0);
  bench.pass(1'200ms);
  BOOST_TEST((bench.of(request->id).end == ending::failed));
  BOOST_TEST(bench.of(request->id).http_status == 408);
  BOOST_TEST(bench.of(request->id).code == "deadline_exceeded");
  BOOST_TEST(bench.gateway_core().num_requests() == 0U);
  require_books_balance(bench);
}

BOOST_AUTO_TEST_CASE(a_tower_that_fails_costs_the_requests_with_that_picture) {
  engine_bench bench;
  bench.fakes().tower_fails = true;
  const auto picture = bench.picture_request("unlucky", 5);
  const auto text = bench.text_request("What can you do?", 5);
  bench.submit(picture);
  bench.submit(text);
  bench.run();
  BOOST_TEST((bench.of(picture->id).end == ending::failed));
  BOOST_TEST(bench.of(picture->id).http_status == 500);
  BOOST_TEST(bench.of(picture->id).message.find("fake tower") == std::string::npos);
  require_finished(bench, *text);
  BOOST_TEST(bench.idle());
  bench.fakes().tower_fails = false;
  const auto retry = bench.picture_request("unlucky", 5);
  bench.submit(retry);
  bench.run();
  require_finished(bench, *retry);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(draining)

BOOST_AUTO_TEST_CASE(a_draining_engine_finishes_what_runs_and_refuses_what_comes) {
  engine_bench bench;
  const auto running = bench.text_request("Hello", 10);
  bench.submit(running);
  bench.run_some(8);
  caf::anon_send(bench.gateway, actors::begin_drain{60'000});
  const auto late = bench.text_request("Too late", 10);
  bench.submit(late);
  bench.run();
  require_finished(bench, *running);
  BOOST_TEST((bench.of(late->id).end == ending::rejected));
  BOOST_TEST(bench.of(late->id).http_status == 503);
  BOOST_TEST(bench.of(late->id).code == "draining");
  BOOST_TEST((bench.status().phase == actors::engine_phase::draining));
}

BOOST_AUTO_TEST_CASE(what_still_runs_after_the_grace_fails) {
  engine_bench bench;
  bench.fakes().tower_is_silent = true;
  const auto stuck = bench.picture_request("stuck", 10);
  bench.submit(stuck);
  bench.run();
  caf::anon_send(bench.gateway, actors::begin_drain{500});
  bench.pass(600ms);
  BOOST_TEST((bench.of(stuck->id).end == ending::failed));
  BOOST_TEST(bench.of(stuck->id).http_status == 503);
  BOOST_TEST(bench.of(stuck->id).code == "shutting_down");
}

BOOST_AUTO_TEST_CASE(a_gateway_told_to_end_fails_its_requests_first) {
  engine_bench bench;
  const auto running = bench.text_request("Hello", 30);
  bench.submit(running);
  bench.run_some(8);
  caf::anon_send_exit(bench.gateway, caf::exit_reason::user_shutdown);
  bench.run();
  BOOST_TEST((bench.of(running->id).end == ending::failed));
  BOOST_TEST(bench.of(running->id).code == "shutting_down");
}

BOOST_AUTO_TEST_SUITE_END()
