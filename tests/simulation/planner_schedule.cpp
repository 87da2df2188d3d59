#include "simulation/planner_schedule.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::simulation {
namespace {

constexpr int32_t actions = 250;
// More steps than any history of these sizes can need once faults have stopped.
constexpr int32_t steps_to_finish_max = 20'000;

}  // namespace

planner_schedule::planner_schedule(uint64_t seed, coverage& seen)
    : seen_(seen),
      random_(seed),
      limits_(make_limits(random_)),
      planner_(limits_),
      shard_(limits_.plan),
      encoder_(random_, limits_.plan.visual_pool_rows),
      maker_(random_, limits_.plan),
      arrivals_left_(pick(random_, 1, 40)),
      faults_percent_(3 * pick(random_, 0, 4)) {}

uint64_t planner_schedule::run() {
  for (int32_t i = 0; i < actions; ++i) {
    act();
    after_event();
  }
  finish();
  return trace_;
}

void planner_schedule::act() {
  if (chance(random_, faults_percent_)) return disturb();
  const int32_t dice = pick(random_, 1, 100);
  if (dice <= 15)
    submit();
  else if (dice <= 45)
    plan_step();
  else if (dice <= 60)
    run_oldest_step();
  else if (dice <= 90)
    complete_oldest_step();
  else
    serve_media();
}

void planner_schedule::disturb() {
  switch (pick(random_, 1, 14)) {
    case 1:
    case 2:
    case 3:
      return cancel_somebody();
    case 4:
    case 5:
      return pass_time();
    case 6:
    case 7:
      return complete_wrongly();
    case 8:
    case 9:
      return fail_media();
    case 10:
      return lose_group();
    case 11:
      return recompute();
    default:
      return pause_or_resume_somebody();
  }
}

void planner_schedule::expect(bool condition, const std::string& what) const {
  if (!condition) throw violation(what);
}

bool planner_schedule::is_live(scheduling::request_id id) const {
  const auto found = clients_.find(id);
  return found != clients_.end() && !found->second.end;
}

// -- what clients, encoder and shards do ---------------------------------------------------------

void planner_schedule::submit() {
  if (arrivals_left_ == 0) return;
  --arrivals_left_;
  auto request = maker_.make(++last_id_);
  request.deadline = now_ + std::chrono::milliseconds(chance(random_, 15) ? 200 : 1'000'000);
  if (chance(random_, 8))
    broken_.push_back({.seed = request.sampling.seed,
                       .position = std::ssize(request.prompt.token_ids) +
                                   pick(random_, 0, request.sampling.max_tokens - 1)});
  client_state client;
  client.prompt = request.prompt;
  client.sampling = request.sampling;
  client.expected = run_alone(request.prompt, request.sampling, limits_.end_token_ids,
                              limits_.plan.vocab_size, broken_);
  client.deadline = request.deadline;
  const auto admitted = planner_.submit(std::move(request), now_);
  if (!admitted.rejected) {
    clients_.emplace(last_id_, std::move(client));
    return;
  }
  expect(!admitted.detail.empty(), "a refusal without a reason");
  const bool is_full = *admitted.rejected == scheduling::rejection::queue_full;
  expect(is_full == (admitted.retry_after.count() > 0), "retry_after contradicts the rejection");
  note(is_full ? "refused: queue full" : "refused: does not fit");
  expect(*admitted.rejected != scheduling::rejection::malformed, admitted.detail);
}

void planner_schedule::plan_step() {
  const int32_t in_flight = planner_.steps_in_flight();
  auto plan = planner_.plan_step();
  if (!plan) return;
  expect(in_flight < 2, "a third step was planned with two in flight");
  check_plan(*plan);
  note_plan(*plan);
  steps_.push_back({.plan = *std::move(plan), .result = std::nullopt});
}

void planner_schedule::check_plan(const plan::step_plan& plan) {
  const auto faults = plan::faults(plan, limits_.plan);
  expect(faults.empty(), faults.empty() ? "" : "plan: " + faults.front());
  ++last_step_;
  expect(plan.epoch == epoch_ && plan.step == last_step_,
         fmt::format("plan is step {} of epoch {}, expected {} of {}", plan.step, plan.epoch,
                     last_step_, epoch_));
  expect(plan.bucket_tokens == limits_.plan.bucket_for(plan.num_tokens()), "bucket is too large");
  trace_ = mix(trace_, plan.content.low);
}

void planner_schedule::note_plan(const plan::step_plan& plan) {
  bool decodes = false, prefills = false;
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    const auto sequence = static_cast<size_t>(s);
    const int32_t begin = plan.query_start[sequence], end = plan.query_start[sequence + 1];
    const int32_t first = plan.context_lengths[sequence] - (end - begin);
    (end - begin == 1 && first > 0 ? decodes : prefills) = true;
    if (plan.row_map[static_cast<size_t>(begin)] >= 0 && first > 0)
      note("chunks from inside a picture");
  }
  if (decodes && prefills) note("mixed steps");
  if (std::ranges::any_of(plan.token_ids, [](int32_t id) { return id < 0; }))
    note("steps planned before their tokens were known");
  if (!plan.adjustments.empty()) note("steps with adjustments");
}

void planner_schedule::run_oldest_step() {
  for (auto& step : steps_) {
    if (step.result) continue;
    step.result = shard_.run(step.plan, encoder_.pool(), broken_);
    return;
  }
}

void planner_schedule::complete_oldest_step() {
  if (steps_.empty()) return;
  auto& oldest = steps_.front();
  if (!oldest.result) oldest.result = shard_.run(oldest.plan, encoder_.pool(), broken_);
  expect(planner_.complete(*oldest.result), "the oldest step's result was not taken");
  steps_.pop_front();
}

void planner_schedule::complete_wrongly() {
  if (steps_.empty()) return;
  const auto& oldest = steps_.front().plan;
  plan::step_result result;
  result.epoch = oldest.epoch;
  result.step = oldest.step;
  result.content = oldest.content;
  result.tokens.assign(oldest.logit_rows.size(), 1);
  switch (pick(random_, 0, 3)) {
    case 0:
      --result.epoch;
      break;
    case 1:
      ++result.step;
      break;
    case 2:
      result.content.high ^= 1;
      break;
    default:
      result.tokens.push_back(1);
  }
  expect(!planner_.complete(result), "a result of another step was taken");
  note("results of other steps refused");
}

void planner_schedule::fail_media() {
  const auto id = encoder_.fail();
  if (!id) return;
  clients_.at(*id).media_failed = true;
  planner_.media_failed(*id, "the picture cannot be decoded");
  note("pictures failed");
}

void planner_schedule::serve_media() {
  auto served = encoder_.serve();
  if (!served) return;
  expect(planner_.media_ready(served->request, std::move(served->rows)),
         fmt::format("rows of request {} were not taken", served->request));
  expect(!planner_.media_ready(served->request, {}), "rows were taken twice");
}

void planner_schedule::cancel_somebody() {
  if (last_id_ == 0) return;
  const auto id = static_cast<uint64_t>(pick(random_, 1, static_cast<int32_t>(last_id_)));
  if (is_live(id)) {
    clients_.at(id).cancelled = true;
    note(steps_.empty() ? "cancelled" : "cancelled with steps in flight");
  }
  planner_.cancel(id);
  planner_.cancel(id);  // once more: no effect
}

void planner_schedule::pause_or_resume_somebody() {
  if (last_id_ == 0) return;
  const auto id = static_cast<uint64_t>(pick(random_, 1, static_cast<int32_t>(last_id_)));
  if (!is_live(id)) return planner_.pause(id);  // no effect
  auto& client = clients_.at(id);
  client.paused = !client.paused;
  if (client.paused) {
    planner_.pause(id);
    note(steps_.empty() ? "paused" : "paused with steps in flight");
  } else {
    planner_.resume(id);
    note("resumed");
  }
}

void planner_schedule::pass_time() {
  now_ += std::chrono::milliseconds(pick(random_, 1, 150));
  planner_.expire(now_);
}

void planner_schedule::lose_group() {
  auto lost = std::exchange(steps_, {});
  epoch_ += static_cast<uint64_t>(pick(random_, 1, 3));
  last_step_ = 0;
  shard_ = toy_shard(limits_.plan);
  planner_.reset(epoch_);
  after_event();
  for (const auto& step : lost)
    if (step.result) expect(!planner_.complete(*step.result), "a lost step's result was taken");
}

void planner_schedule::recompute() {
  note(steps_.empty() ? "recomputed" : "recomputed with steps in flight");
  for (auto& step : steps_)
    if (!step.result) step.result = shard_.run(step.plan, encoder_.pool(), broken_);
  const auto dropped = std::exchange(steps_, {});
  planner_.recompute();
  after_event();
  for (const auto& step : dropped)
    expect(!planner_.complete(*step.result), "a dropped step's result was taken");
}

void planner_schedule::finish() {
  for (const auto& [id, client] : clients_)
    if (client.paused) planner_.resume(id);
  for (int32_t i = 0; i < steps_to_finish_max; ++i) {
    const auto now = planner_.statistics();
    if (now.waiting + now.waiting_for_media + now.running == 0 && steps_.empty()) break;
    serve_media();
    after_event();
    plan_step();
    after_event();
    complete_oldest_step();
    after_event();
  }
  for (const auto& [id, client] : clients_) {
    expect(client.end.has_value(), fmt::format("request {} never ended", id));
    expect(client.wants == client.releases,
           fmt::format("request {} asked {} times for rows and gave back {} times", id,
                       client.wants, client.releases));
  }
  const auto idle = planner_.statistics();
  expect(steps_.empty() && planner_.steps_in_flight() == 0, "steps are in flight at the end");
  expect(idle.blocks_held == 0 && idle.blocks_free + idle.blocks_cached == idle.blocks_total,
         fmt::format("{} blocks are held at the end", idle.blocks_held));
  expect(encoder_.leases_nothing(), "visual rows are leased at the end");
  note("preemptions", idle.preemptions);
  note("replays", idle.replays);
  note("prefix tokens found", idle.prefix_hits);
}

// -- what the planner says -----------------------------------------------------------------------

void planner_schedule::after_event() {
  for (const auto& event : planner_.take_events())
    std::visit([this](const auto& e) { handle(e); }, event);
  const auto fault = planner_.check();
  expect(fault.empty(), "check: " + fault);
}

void planner_schedule::handle(const scheduling::want_media& event) {
  auto& client = clients_.at(event.id);
  expect(client.wants == client.releases, fmt::format("request {} asks twice", event.id));
  if (++client.wants > 1) note("pictures asked for again");
  encoder_.accept({.request = event.id, .prompt = client.prompt});
}

void planner_schedule::handle(const scheduling::release_media& event) {
  auto& client = clients_.at(event.id);
  expect(++client.releases == client.wants,
         fmt::format("request {} gives back rows it never asked for", event.id));
  encoder_.release(event.id);
  for (const auto& step : steps_)
    for (const int32_t row : step.plan.row_map)
      expect(row < 0 || encoder_.leases(row),
             fmt::format("row {} was given back with step {} in flight", row, step.plan.step));
}

void planner_schedule::handle(const scheduling::token_generated& event) {
  auto& client = clients_.at(event.id);
  const auto index = static_cast<size_t>(event.index);
  expect(!client.end, fmt::format("request {} got a token after its end", event.id));
  expect(index == client.tokens.size(), fmt::format("request {} got token {} behind {} tokens",
                                                    event.id, index, client.tokens.size()));
  expect(index < client.expected.tokens.size() && client.expected.tokens[index] == event.token,
         fmt::format(
             "request {} got {} as token {}, alone it gets {}", event.id, event.token, index,
             index < client.expected.tokens.size() ? std::to_string(client.expected.tokens[index])
                                                   : "none"));
  const float logprob = client.sampling.num_logprobs < 0 ? 0 : -static_cast<float>(event.token);
  expect(event.logprobs.sampled == logprob, "logprobs of another row");
  client.tokens.push_back(event.token);
  trace_ = mix(trace_, static_cast<hash_value>(event.token));
}

void planner_schedule::handle(const scheduling::request_ended& event) {
  auto& client = clients_.at(event.id);
  expect(!client.end, fmt::format("request {} ended twice", event.id));
  client.end = event.reason;
  check_end(client, event);
  const auto& usage = event.usage;
  expect(usage.completion_tokens == std::ssize(client.tokens) &&
             usage.prompt_tokens == std::ssize(client.prompt.token_ids) &&
             usage.cached_tokens < usage.prompt_tokens && usage.cached_tokens >= 0,
         fmt::format("usage of request {} is wrong", event.id));
  int32_t visual_tokens = 0;
  for (const auto& span : client.prompt.spans) visual_tokens += span.num_tokens;
  expect(usage.visual_tokens == visual_tokens, "visual tokens are miscounted");
  if (visual_tokens > 0 && client.wants == 0 && !client.tokens.empty())
    note("pictures found in the prefix cache");
  if (event.reason == scheduling::end_reason::stop ||
      event.reason == scheduling::end_reason::length)
    maker_.remember(client.prompt, client.tokens);
  trace_ = mix(trace_, event.id);
}

void planner_schedule::check_end(client_state& client, const scheduling::request_ended& event) {
  using enum scheduling::end_reason;
  const bool complete = client.tokens == client.expected.tokens;
  const auto why = fmt::format("request {} ended for reason {} ({}) after {} of {} tokens",
                               event.id, static_cast<int>(event.reason), event.detail,
                               client.tokens.size(), client.expected.tokens.size());
  switch (event.reason) {
    case stop:
      note("stopped");
      return expect(complete && client.expected.stopped, why);
    case length:
      note("reached max_tokens");
      return expect(complete && !client.expected.stopped && !client.expected.broken, why);
    case cancelled:
      return expect(client.cancelled, why);
    case deadline:
      note("deadlines passed");
      return expect(client.deadline <= now_, why);
    case failed:
      break;
  }
  expect(!event.detail.empty(), why);
  const bool lost = event.detail.starts_with("lost its shards");
  const bool broke = client.expected.broken && complete;
  if (lost) note("replays exhausted");
  if (broke && !lost && !client.media_failed) note("broken logits");
  expect(client.media_failed || lost || broke, why);
}

}  // namespace troupe::simulation
