#include "actors/scheduling/step_planner.hpp"

#include "actors/scheduling/admission.hpp"
#include "actors/scheduling/planner_state.hpp"
#include "config/ensure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace troupe::scheduling {

step_planner::state::state(planner_limits planner_limits)
    : limits(std::move(planner_limits)),
      pool(limits.plan.num_blocks, limits.plan.block_size, limits.prefix_hashing) {
  const auto& plan = limits.plan;
  config::ensure(plan.max_num_seqs >= 1 && plan.max_num_batched_tokens >= 1 &&
                     !plan.token_buckets.empty() &&
                     plan.token_buckets.back() == plan.max_num_batched_tokens,
                 "steps of {} sequences and {} tokens, expected at least 1 and a bucket for each",
                 plan.max_num_seqs, plan.max_num_batched_tokens);
  // An end token outside the vocabulary is never sampled, and must not be named to the sampler.
  std::erase_if(limits.end_token_ids, [&](int32_t id) { return id < 0 || id >= plan.vocab_size; });
  running.reserve(static_cast<size_t>(plan.max_num_seqs));
}

request_state* step_planner::state::find(request_id id) {
  const auto found = by_id.find(id);
  return found == by_id.end() ? nullptr : found->second;
}

// -- in ------------------------------------------------------------------------------------------

admission_result step_planner::state::submit(new_request&& request, time_point now) {
  retry.note(now, tokens_computed);
  config::ensure(find(request.id) == nullptr, "request id {} is already in use", request.id);
  if (auto fault = find_malformation(request, limits))
    return {.rejected = fault->reason, .detail = std::move(fault->detail)};
  auto admitted = std::make_unique<request_state>(std::move(request), arrivals + 1, limits);
  if (auto fault = find_misfit(*admitted, limits))
    return {.rejected = fault->reason, .detail = std::move(fault->detail)};
  if (auto full = refuse_if_full(*admitted); full.rejected) return full;

  auto& added = *requests.emplace(++arrivals, std::move(admitted)).first->second;
  by_id.emplace(added.id, &added);
  enqueue(added);
  return {};
}

admission_result step_planner::state::refuse_if_full(const request_state& request) const {
  const auto now = statistics();
  const int32_t waiting = now.waiting + now.waiting_for_media;
  const bool too_many = waiting >= limits.max_waiting_requests;
  // A prompt alone may be longer than the queue: it only has to find the queue empty.
  const int64_t tokens_over =
      now.waiting_tokens + request.prompt_tokens - limits.max_waiting_tokens;
  if (!too_many && (tokens_over <= 0 || waiting == 0)) return {};

  const int64_t tokens_of_one = now.waiting_tokens / std::max(1, waiting);
  return {.rejected = rejection::queue_full,
          .detail = fmt::format("{} requests with {} prompt tokens wait, limits are {} and {}",
                                waiting, now.waiting_tokens, limits.max_waiting_requests,
                                limits.max_waiting_tokens),
          .retry_after = retry.time_for(std::max(too_many ? tokens_of_one : 0, tokens_over))};
}

void step_planner::state::enqueue(request_state& request) {
  request.postponed = false;
  find_prefix(request);
  if (lacks_rows(request)) {
    request.phase = request_phase::waiting_for_media;
    request.media = media_state::wanted;
    events.emplace_back(want_media{request.id});
  } else {
    request.phase = request_phase::waiting;
    line.emplace(request.arrival, &request);
  }
}

// -- visual rows ---------------------------------------------------------------------------------

bool step_planner::state::media_ready(request_id id, std::vector<int32_t>&& rows) {
  auto* request = find(id);
  if (request == nullptr || request->media != media_state::wanted) return false;
  const auto outside = std::ranges::find_if(
      rows, [&](int32_t row) { return row < 0 || row >= limits.plan.visual_pool_rows; });
  if (std::ssize(rows) != request->visual.num_tokens() || outside != rows.end()) {
    end(*request, end_reason::failed,
        outside != rows.end() ? fmt::format("visual row {}, expected 0 to {}", *outside,
                                            limits.plan.visual_pool_rows - 1)
                              : fmt::format("{} visual rows, expected {}", rows.size(),
                                            request->visual.num_tokens()));
    return false;
  }
  request->media = media_state::held;
  request->pool_rows = std::move(rows);
  enqueue(*request);
  return true;
}

void step_planner::state::media_failed(request_id id, const std::string& why) {
  auto* request = find(id);
  if (request != nullptr && request->media == media_state::wanted)
    end(*request, end_reason::failed, why);
}

void step_planner::state::give_back_media(request_state& request) {
  if (request.media == media_state::none) return;
  request.media = media_state::none;
  request.pool_rows.clear();
  events.emplace_back(release_media{request.id});
}

// -- results -------------------------------------------------------------------------------------

bool step_planner::state::complete(const plan::step_result& result) {
  if (in_flight.empty() || result.epoch != epoch) return false;
  auto& oldest = in_flight.front();
  if (result.step != oldest.step || !(result.content == oldest.content) ||
      result.tokens.size() != oldest.num_rows || result.logprobs.size() > oldest.num_rows)
    return false;
  const auto chunks = std::move(oldest.chunks);
  in_flight.pop_front();
  for (const auto& part : chunks) complete_chunk(part, result);
  return true;
}

void step_planner::state::complete_chunk(const chunk& part, const plan::step_result& result) {
  auto& request = *part.request;
  request.computed_tokens += part.num_tokens;
  tokens_computed += part.num_tokens;
  const bool live = request.phase != request_phase::ended;
  if (part.row >= 0 && !is_token(result.tokens[static_cast<size_t>(part.row)])) {
    request.blocks.withdraw(pool);  // also those of a request that ended meanwhile
    if (live)
      end(request, end_reason::failed,
          fmt::format("the logits of token {} were not finite", request.generated_tokens()));
  } else if (live) {
    if (part.row >= 0) take_token(request, result, part.row);
    if (limits.prefix_cache)
      request.blocks.publish(pool, request.content(), request.computed_tokens);
  }
  --request.steps_in_flight;
  settle(request);
}

bool step_planner::state::is_token(int32_t sampled) const {
  return sampled >= 0 && sampled < limits.plan.vocab_size;
}

void step_planner::state::take_token(request_state& request, const plan::step_result& result,
                                     int32_t row) {
  const auto place = static_cast<size_t>(row);
  const int32_t token = result.tokens[place];
  --request.pending_tokens;
  request.tokens.push_back(token);
  request.history.record(token);
  ++totals.generated_tokens;
  events.emplace_back(token_generated{
      .id = request.id,
      .index = request.generated_tokens() - 1,
      .token = token,
      .logprobs = place < result.logprobs.size() ? result.logprobs[place] : plan::token_logprobs{},
      .usage = request.usage()});
  if (request.stops_at(token))
    end(request, end_reason::stop);
  else if (request.generated_tokens() == request.sampling.max_tokens)
    end(request, end_reason::length);
}

// -- out -----------------------------------------------------------------------------------------

void step_planner::state::cancel(request_id id) {
  if (auto* request = find(id)) end(*request, end_reason::cancelled);
}

void step_planner::state::pause(request_id id) {
  auto* request = find(id);
  if (request == nullptr || request->wants_pause) return;
  request->wants_pause = true;
  if (request->phase == request_phase::running) {
    stop_running(*request);
  } else if (request->phase != request_phase::preempted) {
    line.erase(request->arrival);
    line_up(*request);
  }
}

void step_planner::state::resume(request_id id) {
  auto* request = find(id);
  if (request == nullptr || !request->wants_pause) return;
  request->wants_pause = false;
  if (request->phase == request_phase::paused) line_up(*request);
}

void step_planner::state::line_up(request_state& request) {
  if (!request.wants_pause) return enqueue(request);
  give_back_media(request);
  request.phase = request_phase::paused;
}

void step_planner::state::expire(time_point now) {
  retry.note(now, tokens_computed);
  for (auto next = requests.begin(); next != requests.end();) {
    auto& request = *(next++)->second;  // `end` may erase it
    if (request.phase == request_phase::ended || request.deadline > now) continue;
    end(request, end_reason::deadline,
        fmt::format("{} after {} of {} tokens", to_string(request.phase),
                    request.generated_tokens(), request.sampling.max_tokens));
  }
}

void step_planner::state::end(request_state& request, end_reason reason, std::string detail) {
  line.erase(request.arrival);
  std::erase(running, &request);
  by_id.erase(request.id);
  request.phase = request_phase::ended;
  events.emplace_back(request_ended{
      .id = request.id, .reason = reason, .detail = std::move(detail), .usage = request.usage()});
  if (request.media == media_state::wanted) give_back_media(request);
  if (request.steps_in_flight == 0) settle(request);
}

void step_planner::state::settle(request_state& request) {
  if (request.media == media_state::held && request.computed_tokens >= request.visual.end_token())
    give_back_media(request);
  if (request.steps_in_flight > 0) return;
  if (request.phase == request_phase::ended) {
    destroy(request);
  } else if (request.phase == request_phase::preempted) {
    line.erase(request.arrival);
    request.blocks.release(pool);
    request.planned_tokens = request.computed_tokens = 0;
    line_up(request);
  }
}

void step_planner::state::destroy(request_state& request) {
  request.blocks.release(pool);
  give_back_media(request);
  requests.erase(request.arrival);
}

// -- starting over -------------------------------------------------------------------------------

void step_planner::state::reset(uint64_t new_epoch) {
  config::ensure(new_epoch >= epoch, "reset to epoch {}, expected {} or later", new_epoch, epoch);
  epoch = new_epoch;
  step = 0;
  pool.reset();
  start_over();
  for (auto next = requests.begin(); next != requests.end();) {
    auto& request = *(next++)->second;  // may be gone afterwards
    if (forget_work(request) && request.phase != request_phase::ended) {
      ++totals.replays;
      ++request.replays;
    }
    replay(request);
  }
}

void step_planner::state::recompute() {
  pool.distrust();
  start_over();
  for (auto next = requests.begin(); next != requests.end();) {
    auto& request = *(next++)->second;
    forget_work(request);
    replay(request);
  }
}

void step_planner::state::start_over() {
  in_flight.clear();
  running.clear();
  line.clear();
  blocked.reset();
}

bool step_planner::state::forget_work(request_state& request) {
  const bool lost_work = request.phase == request_phase::running || request.steps_in_flight > 0;
  request.blocks.forget();
  request.steps_in_flight = 0;
  request.pending_tokens = request.planned_tokens = request.computed_tokens = 0;
  return lost_work;
}

void step_planner::state::replay(request_state& request) {
  if (request.phase == request_phase::ended) return destroy(request);
  if (request.phase == request_phase::waiting_for_media) return;
  if (request.replays > limits.max_replays)
    return end(
        request, end_reason::failed,
        fmt::format("lost its shards {} times, limit {}", request.replays, limits.max_replays));
  line_up(request);
}

planner_statistics step_planner::state::statistics() const {
  auto now = totals;
  now.running = static_cast<int32_t>(running.size());
  now.waiting = static_cast<int32_t>(line.size());
  for (const auto& [arrival, request] : requests) {
    const auto phase = request->phase;
    if (phase == request_phase::running || phase == request_phase::ended) continue;
    if (phase == request_phase::paused) {
      ++now.paused;
      continue;
    }
    now.waiting_for_media += phase == request_phase::waiting_for_media;
    now.waiting_tokens += request->prompt_tokens;
  }
  now.blocks_total = pool.num_total();
  now.blocks_free = pool.num_free();
  now.blocks_cached = pool.num_cached();
  now.blocks_held = pool.num_held();
  return now;
}

// -- public face ---------------------------------------------------------------------------------

step_planner::step_planner(planner_limits limits)
    : state_(std::make_unique<state>(std::move(limits))) {}
step_planner::~step_planner() = default;

admission_result step_planner::submit(new_request request, time_point now) {
  return state_->submit(std::move(request), now);
}
bool step_planner::media_ready(request_id id, std::vector<int32_t> pool_rows) {
  return state_->media_ready(id, std::move(pool_rows));
}
void step_planner::media_failed(request_id id, const std::string& why) {
  state_->media_failed(id, why);
}
void step_planner::cancel(request_id id) {
  state_->cancel(id);
}
void step_planner::pause(request_id id) {
  state_->pause(id);
}
void step_planner::resume(request_id id) {
  state_->resume(id);
}
void step_planner::expire(time_point now) {
  state_->expire(now);
}
std::optional<plan::step_plan> step_planner::plan_step() {
  return state_->plan_step();
}
bool step_planner::complete(const plan::step_result& result) {
  return state_->complete(result);
}
void step_planner::reset(uint64_t new_epoch) {
  state_->reset(new_epoch);
}
void step_planner::recompute() {
  state_->recompute();
}
std::vector<planner_event> step_planner::take_events() {
  auto events = std::exchange(state_->events, {});
  state_->events.reserve(events.size());
  return events;
}
planner_statistics step_planner::statistics() const {
  return state_->statistics();
}
int32_t step_planner::steps_in_flight() const {
  return static_cast<int32_t>(state_->in_flight.size());
}
std::string step_planner::check() const {
  return state_->check();
}

}  // namespace troupe::scheduling
