#include "simulation/engine_schedule.hpp"

#include "actors/errors.hpp"
#include "actors/generated_text.hpp"
#include "support/reference_set.hpp"

#include <fmt/format.h>
#include <caf/abstract_actor.hpp>
#include <caf/send.hpp>

#include <algorithm>
#include <utility>

namespace troupe::simulation {
namespace {

using namespace std::chrono_literals;
using testing::ending;

constexpr int64_t max_model_len = 96;
constexpr int32_t block_size = 4;  // of the bench
constexpr int32_t num_pictures = 5;
// Longer than the time of two steps and a departure, which any fault costs at most; and much
// shorter than the long deadline, which must not be what ends a request.
constexpr auto patience = 60s;
constexpr std::chrono::milliseconds short_deadline = 800ms;
constexpr std::chrono::milliseconds long_deadline = 600s;
constexpr auto tick = 50ms;
// A history has some thousands of messages.
constexpr int64_t messages_to_rest = 100'000;

void expect(bool condition, const std::string& what) {
  if (!condition) throw violation(what);
}

const model::tokenizer& tiny_tokenizer() {
  static const auto tokenizer =
      model::tokenizer::load(testing::fixtures() / "tiny" / "tokenizer.json");
  return tokenizer;
}

/// The answer as a client hears it, from the tokens of the model alone.
lone_answer answer_of(const std::vector<int32_t>& tokens,
                      std::shared_ptr<const actors::completion_request> request) {
  lone_answer answer;
  const auto take = [&](const actors::text_delta& delta) {
    answer.text += delta.text;
    for (const auto& token : delta.tokens) answer.tokens.push_back(token.token);
  };
  actors::generated_text text(std::move(request), tiny_tokenizer());
  for (const int32_t token : tokens)
    if (!text.stopped()) take(text.push(token, {}));
  take(text.finish());
  answer.completion_tokens = text.num_tokens();
  return answer;
}

bool begins(const std::vector<int32_t>& whole, const std::vector<int32_t>& part) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

/// One more picture of a request, before its text.
void add_picture(actors::completion_request& request, const std::string& picture) {
  auto item = request.media.front();
  item.frames = {std::make_shared<const std::string>(picture)};
  auto& parts = request.chat.messages.front().content;
  parts.insert(parts.begin() + 1,
               model::media_part{static_cast<int32_t>(request.media.size()), false});
  request.media.push_back(std::move(item));
}

caf::actor_id id_of(const caf::resumable* job) {
  const auto* actor = dynamic_cast<const caf::abstract_actor*>(job);
  return actor == nullptr ? 0 : actor->id();
}

}  // namespace

engine_schedule::engine_schedule(uint64_t seed, coverage& seen, bool verbose)
    : seen_(seen),
      verbose_(verbose),
      random_(seed),
      options_(make_options()),
      bench_(options_),
      messages_(dynamic_cast<caf::scheduler::test_coordinator&>(bench_.system().scheduler())),
      arrivals_left_(pick(random_, 2, 16)),
      faults_left_(chance(random_, 90) ? pick(random_, 0, 2) : 4) {
  bench_.fakes().on_step = [this](int32_t rank, actors::step_completed honest) {
    return report(rank, std::move(honest));
  };
}

testing::bench_options engine_schedule::make_options() {
  testing::bench_options options;
  options.ranks = pick(random_, 1, 3);
  options.max_model_len = max_model_len;
  options.num_blocks =
      1 + (chance(random_, 50) ? pick(random_, 14, 26) : 50);  // full length needs 24
  options.max_num_seqs = pick(random_, 1, 6);
  options.max_num_batched_tokens = options.max_num_seqs + pick(random_, 1, 40);
  options.visual_pool_rows = pick(random_, 9, 40);  // a picture needs 9
  options.max_preparing_requests = pick(random_, 2, 16);
  options.max_waiting_requests = pick(random_, 2, 16);
  options.request_deadline = chance(random_, 30) ? short_deadline : long_deadline;
  if (chance(random_, 40)) options.verify_every = chance(random_, 70) ? 1 : pick(random_, 2, 6);
  return options;
}

uint64_t engine_schedule::run() {
  const int32_t acts = pick(random_, 100, 900);
  for (int32_t i = 0; i < acts; ++i) act();
  finish();
  count_what_happened();
  return trace_;
}

void engine_schedule::act() {
  if (arrivals_left_ > 0 && chance(random_, 3)) return submit_some();
  if (chance(random_, 4)) return disturb();
  if (!run_one_message()) pass_time(tick);
}

// -- what happens
// -------------------------------------------------------------------------------------------

void engine_schedule::disturb() {
  switch (pick(random_, 0, 11)) {
    case 0:
    case 1:
      return cancel_somebody();
    case 2:
      return let_somebody_leave();
    case 3:
    case 4:
      return stall_somebody();
    case 5:
      return break_a_shard();
    case 6:
      return break_pictures();
    case 7:
      return drain();
    case 8:
    case 9:
      return let_somebody_nap();
    case 10:
      return break_a_graph();
    default:
      return pass_time(tick * pick(random_, 1, 4));
  }
}

/// Only where every step is verified: else clients get tokens of it.
void engine_schedule::break_a_graph() {
  if (options_.verify_every != 1) return;
  const auto buckets = plan::make_token_buckets(options_.max_num_batched_tokens);
  bench_.fakes().broken_graphs.insert(
      buckets.at(static_cast<size_t>(pick(random_, 0, static_cast<int32_t>(buckets.size()) - 1))));
}

std::shared_ptr<actors::completion_request> engine_schedule::make_request() {
  const int32_t max_tokens =
      chance(random_, 4) ? 200 : pick(random_, 1, chance(random_, 30) ? 50 : 16);
  const auto picture = [this] { return fmt::format("picture {}", pick(random_, 1, num_pictures)); };
  std::shared_ptr<actors::completion_request> request;
  if (chance(random_, 50)) {
    request = bench_.picture_request(picture(), max_tokens);
    if (chance(random_, 30)) add_picture(*request, picture());
  } else {
    request =
        bench_.text_request(fmt::format("What is {} plus 2?", pick(random_, 1, 4)), max_tokens);
  }
  request->id = ++last_id_;
  auto& sampling = request->sampling;
  sampling.seed = random_();
  sampling.temperature = chance(random_, 50) ? 0.F : 1.F;
  sampling.ignore_eos = chance(random_, 50);
  if (chance(random_, 20)) sampling.repetition_penalty = 1.5F;
  if (chance(random_, 20)) sampling.frequency_penalty = 0.5F;
  if (chance(random_, 20)) request->stop = {"e", "12"};
  return request;
}

engine_schedule::client_state& engine_schedule::admit(
    std::shared_ptr<actors::completion_request> request) {
  const auto tokens = bench_.tokens_alone(*request);
  clients_.push_back({request, answer_of(tokens, request), now()});
  bench_.submit(request);
  return clients_.back();
}

void engine_schedule::submit_some() {
  for (int32_t count = std::min(arrivals_left_, pick(random_, 1, 8)); count > 0; --count) {
    --arrivals_left_;
    const auto& client = admit(make_request());
    say(fmt::format("client {} submits, {} pictures", client.request->id,
                    client.request->media.size()));
  }
}

engine_schedule::client_state& engine_schedule::somebody() {
  return clients_[static_cast<size_t>(pick(random_, 0, static_cast<int32_t>(clients_.size()) - 1))];
}

void engine_schedule::cancel_somebody() {
  if (clients_.empty()) return;
  auto& client = somebody();
  client.cancelled = true;
  say(fmt::format("client {} cancels", client.request->id));
  bench_.cancel(client.request->id);
  if (!chance(random_, 30)) return;
  bench_.cancel(client.request->id);
  note("cancelled twice");
}

void engine_schedule::let_somebody_leave() {
  if (clients_.empty()) return;
  auto& client = somebody();
  client.left = true;
  say(fmt::format("client {} leaves", client.request->id));
  bench_.kill_sink(client.request->id);
}

void engine_schedule::let_somebody_nap() {
  if (clients_.empty()) return;
  auto& client = somebody();
  client.naps = !client.naps;
  say(fmt::format("client {} {}", client.request->id, client.naps ? "naps" : "reads on"));
  if (!client.naps) return bench_.resume(client.request->id);
  bench_.pause(client.request->id);
  note("clients napped");
}

void engine_schedule::stall_somebody() {
  const auto& shards = bench_.seen().shards;
  const auto shard = shards.at(static_cast<size_t>(pick(random_, 0, options_.ranks - 1)));
  const caf::actor_id candidates[] = {bench_.gateway.id(),    bench_.scheduler.id(),
                                      bench_.encoder.id(),    bench_.seen().tower.id(),
                                      bench_.supervisor.id(), shard.id()};
  stalled_ = candidates[pick(random_, 0, 5)];
  stalled_for_ = pick(random_, 5, 40);  // 2 s at most: less than a step may take
  say(fmt::format("actor {} stalls for {} messages", stalled_, stalled_for_));
  note("actors stalled");
  if (stalled_ != shard.id() || faults_left_ == 0 || !chance(random_, 30)) return;
  take_fault();
  say("its answer comes after the step's time");
  note("ranks too late");
  for (int32_t i = 0; i < stalled_for_; ++i) run_one_message();
  pass_time(11s);  // two steps may be in flight
}

void engine_schedule::take_fault() {
  --faults_left_;
  ++faults_;
  ++faults_of_the_tower_;
}

void engine_schedule::break_a_shard() {
  if (faults_left_ == 0) return;
  take_fault();
  const int32_t kind = pick(random_, 0, 5);
  let_a_rank_not_join();
  if (kind == 0) {
    const auto rank = static_cast<size_t>(pick(random_, 0, options_.ranks - 1));
    say(fmt::format("the shard of rank {} dies", rank));
    if (rank != 0) --faults_of_the_tower_;  // lives apart from it
    note("shards died");
    caf::anon_send_exit(bench_.seen().shards.at(rank), caf::exit_reason::kill);
    return;
  }
  if (kind >= 4) return break_the_tower(kind == 4);
  armed_ = kind == 1                         ? rank_fault::refusal
           : kind == 2 && options_.ranks > 1 ? rank_fault::other_token
                                             : rank_fault::other_digest;
}

/// Of the next group. A new rank that does not join loses that one as well.
void engine_schedule::let_a_rank_not_join() {
  if (faults_left_ == 0 || !chance(random_, 30)) return;
  take_fault();
  const int32_t rank = pick(random_, 0, options_.ranks - 1);
  const bool silent = chance(random_, 30);
  say(fmt::format("rank {} will {} to join", rank, silent ? "be silent when asked" : "refuse"));
  (silent ? bench_.fakes().silent_to_join : bench_.fakes().refuse_to_join).insert(rank);
}

void engine_schedule::break_the_tower(bool at_once) {
  if (at_once) {
    say("the vision tower dies");
    note("towers died");
    caf::anon_send_exit(bench_.seen().tower, caf::exit_reason::kill);
  } else {
    say("the vision tower will lose its device");
    bench_.fakes().tower_loses_device = 1;
  }
}

void engine_schedule::break_pictures() {
  auto& fakes = bench_.fakes();
  if (fakes.tower_fails || fakes.refuse_pictures) {
    fakes.tower_fails = false;
    fakes.refuse_pictures.reset();
    return say("pictures work again");
  }
  pictures_failed_ = true;
  if (chance(random_, 50)) {
    say("the tower fails");
    fakes.tower_fails = true;
  } else {
    say("pictures are refused");
    fakes.refuse_pictures = actors::refusal{400, "invalid_image", "not a picture"};
  }
}

void engine_schedule::drain() {
  if (!chance(random_, 10)) return;
  say("the engine drains");
  if (!std::exchange(draining_, true)) note("drains");
  caf::anon_send(bench_.gateway, actors::begin_drain{pick(random_, 0, 2'000)});
}

void engine_schedule::pass_time(std::chrono::milliseconds duration) {
  messages_.advance_time(duration);
  trace_ = mix(trace_, static_cast<hash_value>(duration.count()));
}

std::chrono::steady_clock::time_point engine_schedule::now() const {
  return messages_.clock().now();
}

// -- messages
// -----------------------------------------------------------------------------------------------

bool engine_schedule::run_one_message() {
  auto& jobs = messages_.jobs;
  if (stalled_for_ > 0 && --stalled_for_ == 0) stalled_ = 0;
  std::vector<size_t> ready;
  for (size_t i = 0; i < jobs.size(); ++i)
    if (stalled_ == 0 || id_of(jobs[i]) != stalled_) ready.push_back(i);
  if (ready.empty()) return false;
  const auto chosen =
      ready[static_cast<size_t>(pick(random_, 0, static_cast<int32_t>(ready.size()) - 1))];
  std::swap(jobs.front(), jobs[chosen]);
  trace_ = mix(trace_, id_of(jobs.front()));
  messages_.run_once();
  ++num_messages_;
  after_message();
  return true;
}

void engine_schedule::after_message() {
  const auto why = bench_.check();
  expect(why.empty(), fmt::format("after message {}: {}", num_messages_, why));
}

caf::result<actors::step_completed> engine_schedule::report(int32_t rank,
                                                            actors::step_completed honest) {
  const bool last_rank = rank + 1 == options_.ranks;
  const bool has_token = !honest.result.tokens.empty();
  if (!last_rank || (armed_ == rank_fault::other_token && !has_token)) return honest;
  const auto fault = std::exchange(armed_, rank_fault::none);
  switch (fault) {
    case rank_fault::none:
      break;
    case rank_fault::other_digest:
      say("a rank reports another digest");
      note("ranks with another digest");
      ++honest.result.content.high;
      break;
    case rank_fault::other_token:
      say("a rank reports another token");
      note("ranks with another token");
      honest.result.tokens.back() ^= 1;
      break;
    case rank_fault::refusal:
      say("a rank refuses its plan");
      note("plans refused");
      return actors::make_error(actors::engine_error::plan_refused, "told to refuse");
  }
  return honest;
}

// -- the end
// ------------------------------------------------------------------------------------------------

void engine_schedule::finish() {
  say("the faults stop");
  stalled_ = 0;
  stalled_for_ = 0;
  armed_ = rank_fault::none;
  bench_.fakes().tower_fails = false;
  bench_.fakes().tower_loses_device = 0;
  bench_.fakes().refuse_to_join.clear();
  bench_.fakes().silent_to_join.clear();
  bench_.fakes().refuse_pictures.reset();
  for (const auto& client : clients_)
    if (client.naps) bench_.resume(client.request->id);
  run_until_quiet();
  check_engine_state();
  for (const auto& client : clients_) check_client(client);
  serve_one_more();
}

void engine_schedule::run_until_quiet() {
  const auto begin = now();
  const auto last_message = num_messages_ + messages_to_rest;
  for (;;) {
    while (run_one_message())
      expect(num_messages_ < last_message, "the actors do not stop sending messages");
    const bool loads = bench_.status().phase == actors::engine_phase::loading;
    if (everybody_heard_an_end() && bench_.idle() && !loads) break;
    expect(now() - begin < patience, "the engine did not come to rest");
    pass_time(tick);
  }
}

bool engine_schedule::everybody_heard_an_end() const {
  return std::all_of(clients_.begin(), clients_.end(), [this](const client_state& client) {
    return client.left || bench_.of(client.request->id).ends == 1;
  });
}

void engine_schedule::check_engine_state() {
  const auto status = bench_.status();
  failed_ = status.phase == actors::engine_phase::failed;
  expect(
      !failed_ || (status.detail.find("groups lost within") != std::string::npos && faults_ >= 3),
      fmt::format("the engine failed after {} faults: {}", faults_, status.detail));
}

void engine_schedule::check_client(const client_state& client) const {
  const auto& heard = bench_.of(client.request->id);
  try {
    check_answer(client, heard);
    if (!client.left) check_end(client, heard);
  } catch (const violation& broken) {
    throw violation(fmt::format("client {} (ending {}, {} {} {}): {}", client.request->id,
                                static_cast<int>(heard.end), heard.http_status, heard.code,
                                heard.message, broken.what()));
  }
}

/// What a client heard is a beginning of its answer; all of it, if the request finished.
void engine_schedule::check_answer(const client_state& client, const testing::answer& heard) const {
  const auto& expected = client.expected;
  expect(begins(expected.tokens, heard.tokens),
         fmt::format("heard tokens {}, expected a beginning of {}", fmt::join(heard.tokens, " "),
                     fmt::join(expected.tokens, " ")));
  expect(expected.text.starts_with(heard.text),
         fmt::format("heard '{}', expected a beginning of '{}'", heard.text, expected.text));
  if (heard.end != ending::finished) return;
  expect(heard.tokens.size() == expected.tokens.size() && heard.text == expected.text,
         fmt::format("finished with {} tokens, expected {}", heard.tokens.size(),
                     expected.tokens.size()));
  expect(heard.finished.usage.completion_tokens == expected.completion_tokens,
         fmt::format("was told {} completion tokens, expected {}",
                     heard.finished.usage.completion_tokens, expected.completion_tokens));
}

/// It ended once, for a reason that this history gave.
void engine_schedule::check_end(const client_state& client, const testing::answer& heard) const {
  expect(heard.ends == 1, fmt::format("heard {} ends, expected 1", heard.ends));
  switch (heard.end) {
    case ending::none:
      throw violation("heard no end");
    case ending::finished:
      return;
    case ending::cancelled:
      return expect(client.cancelled, "ended as cancelled, but nobody did");
    case ending::rejected:
      return expect(may_be_rejected(client, heard), "rejected without a reason");
    case ending::failed:
      return expect(may_have_failed(client, heard), "failed without a reason");
  }
}

bool engine_schedule::may_be_rejected(const client_state& client,
                                      const testing::answer& heard) const {
  if (heard.code == "queue_full") return heard.http_status == 429;
  if (heard.code == "draining") return draining_;
  if (heard.code == "engine_failed") return failed_;
  if (heard.code == "context_length_exceeded")
    return client.request->sampling.max_tokens > max_model_len ||
           options_.num_blocks - 1 < max_model_len / block_size;
  return heard.code == "invalid_image" && (pictures_failed_ || options_.visual_pool_rows < 18);
}

bool engine_schedule::may_have_failed(const client_state& client,
                                      const testing::answer& heard) const {
  if (heard.code == "deadline_exceeded")
    return now() - client.submitted >= options_.request_deadline;
  if (heard.code == "shutting_down") return draining_;
  // A picture that was at two lost towers is given up.
  const bool blamed = faults_of_the_tower_ >= actors::vision_slots::max_losses;
  return heard.code == "engine_error" &&
         (failed_ || ((pictures_failed_ || blamed) && needs_pictures(client)));
}

/// A history must not leave anything behind that the next request could stumble over.
void engine_schedule::serve_one_more() {
  auto request = bench_.picture_request("picture 1", 3);
  request->id = ++last_id_;
  const auto client = admit(std::move(request));
  run_until_quiet();
  check_client(client);
  const auto& heard = bench_.of(client.request->id);
  const char* code = failed_ ? "engine_failed" : draining_ ? "draining" : "";
  expect(heard.code == code,
         fmt::format("the last request ended with '{}', expected '{}'", heard.code, code));
}

void engine_schedule::count_what_happened() {
  for (const auto& client : clients_) {
    const auto& heard = bench_.of(client.request->id);
    for (const int32_t token : heard.tokens) trace_ = mix(trace_, static_cast<hash_value>(token));
    trace_ = mix(trace_, static_cast<hash_value>(heard.end));
    note("clients left", client.left);
    note("cancelled", heard.end == ending::cancelled);
    note("finished", heard.end == ending::finished);
    note("refused: queue full", heard.code == "queue_full");
    note("refused: draining", heard.code == "draining");
    note("deadlines passed", heard.code == "deadline_exceeded");
    note("pictures failed", heard.code == "engine_error" && !failed_);
    note("pictures refused", heard.code == "invalid_image");
    note("shut down while running", heard.code == "shutting_down");
  }
  for (const auto& [step, content] : bench_.seen().plans) trace_ = mix(trace_, content.low);
  const auto planner = bench_.scheduler_core().planner().statistics();
  note("messages", num_messages_);
  note("preemptions", planner.preemptions);
  note("replays", planner.replays);
  note("prefix tokens found", planner.prefix_hits);
  note("towers that lost their device", bench_.seen().devices_lost);
  const auto verified = bench_.scheduler_core().statistics().verification;
  note("steps verified", verified.steps_verified);
  note("graphs quarantined", verified.graphs_quarantined);
  const auto recovery = bench_.status().recovery;
  note("groups rebuilt", std::ssize(bench_.seen().epochs) - 1);
  note("ranks kept", recovery.ranks_kept);
  note("ranks replaced", recovery.ranks_replaced);
  note("ranks that refused to join", bench_.seen().joins_refused);
  note("engines failed", failed_);
}

void engine_schedule::say(const std::string& what) const {
  if (verbose_) fmt::print("message {:>5}: {}\n", num_messages_, what);
}

}  // namespace troupe::simulation
