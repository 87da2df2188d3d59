#include "actors/scheduling/admission.hpp"
#include "actors/scheduling/planner_state.hpp"
#include "config/ensure.hpp"

#include <algorithm>
#include <utility>

namespace troupe::scheduling {

std::optional<plan::step_plan> step_planner::state::plan_step() {
  if (in_flight.size() == max_steps_in_flight) return std::nullopt;
  draft = {.chunks = std::exchange(draft.chunks, {})};
  draft.chunks.clear();
  admit_oldest();
  draft_decodes();
  draft.max_tokens = max_tokens_with_prefills();
  draft_prefills();
  admit_waiting();
  if (!draft.chunks.empty()) return launch();
  // A step without work must point to an event that will bring some; anything else would spin for
  // ever.
  config::ensure(!in_flight.empty() || (running.empty() && line.empty()),
                 "nothing to plan and nothing in flight, but {} requests run and {} wait",
                 running.size(), line.size());
  return std::nullopt;
}

// -- cached prefixes -----------------------------------------------------------------------------

void step_planner::state::find_prefix(request_state& request) {
  prefix.clear();
  if (!limits.prefix_cache) return;
  const int32_t full_blocks = (request.known_tokens() - 1) / pool.block_size();
  request.blocks.find_prefix(pool, request.content(), full_blocks, prefix);
}

int32_t step_planner::state::prefix_tokens() const {
  return static_cast<int32_t>(prefix.size()) * pool.block_size();
}

bool step_planner::state::lacks_rows(const request_state& request) const {
  return request.media != media_state::held && request.visual.end_token() > prefix_tokens();
}

bool step_planner::state::is_computed_elsewhere(request_state& request) {
  const auto next = static_cast<int32_t>(prefix.size());
  const int32_t end = (next + 1) * pool.block_size();
  if (!limits.prefix_cache || end >= request.known_tokens()) return false;
  const auto& key = request.blocks.key_of(pool, request.content(), next);
  return std::ranges::any_of(running, [&](request_state* other) {
    return other->arrival < request.arrival && other->blocks.num_published() <= next &&
           other->known_tokens() >= end &&
           other->blocks.key_of(pool, other->content(), next) == key;
  });
}

// -- who is in the step --------------------------------------------------------------------------

void step_planner::state::draft_decodes() {
  draft.first_for_adjustments = first_postponed();
  // Decodes may fill a step, but never keep the oldest from its prompt.
  const bool oldest_prefills = !running.empty() && running.front()->tokens_to_plan() > 1;
  const int32_t budget = limits.plan.max_num_batched_tokens - (oldest_prefills ? 1 : 0);
  // By index, oldest first: growing may preempt requests behind the current one.
  for (size_t i = 0; i < running.size() && draft.num_tokens < budget; ++i) {
    auto& request = *running[i];
    if (request.tokens_to_plan() != 1 || !request.wants_token()) continue;
    if (grow(request, request.total_tokens()) && fits_adjustments(request)) draft_chunk(request, 1);
  }
}

const request_state* step_planner::state::first_postponed() const {
  const auto first = std::ranges::find_if(running, &request_state::postponed);
  return first == running.end() ? nullptr : *first;
}

int32_t step_planner::state::max_tokens_with_prefills() const {
  const int32_t all = limits.plan.max_num_batched_tokens;
  const int32_t bound = limits.max_prefill_tokens_beside_decode;
  if (bound == 0 || draft.num_rows == 0) return all;
  return draft.num_tokens + std::min(bound, all - draft.num_tokens);
}

void step_planner::state::draft_prefills() {
  for (size_t i = 0; i < running.size() && draft.num_tokens < draft.max_tokens; ++i) {
    auto& request = *running[i];
    if (request.tokens_to_plan() > 1)
      draft_chunk(request, std::min(request.tokens_to_plan(), draft.max_tokens - draft.num_tokens));
  }
}

void step_planner::state::admit_oldest() {
  if (line.empty()) return;
  auto& request = *line.begin()->second;
  if (request.phase != request_phase::waiting || !is_oldest(request)) return;
  make_room(request);
  if (std::ssize(running) < limits.plan.max_num_seqs) admit_from_line(request);
}

void step_planner::state::admit_waiting() {
  // Those that wait for an equal prompt let others pass, but no more of them than could run are
  // tried.
  int32_t passes_left = limits.plan.max_num_seqs;
  for (auto next = line.begin(); next != line.end() && draft.num_tokens < draft.max_tokens;) {
    auto& request = *(next++)->second;  // admission erases it
    if (std::ssize(running) == limits.plan.max_num_seqs) return;
    // First come, first served: whoever is at the head gets the next blocks, also while they are
    // still on their way back to the pool.
    if (request.phase == request_phase::preempted) return;
    const auto outcome = admit_from_line(request);
    if (outcome == admission::no_room) return;
    if (outcome == admission::computed_elsewhere && --passes_left == 0) return;
    if (outcome == admission::admitted)
      draft_chunk(request, std::min(request.tokens_to_plan(), draft.max_tokens - draft.num_tokens));
  }
}

void step_planner::state::draft_chunk(request_state& request, int32_t num_tokens) {
  bool samples = num_tokens == request.tokens_to_plan();
  if (samples && !fits_adjustments(request)) {
    samples = false;
    --num_tokens;  // its last token waits for a step with room for the adjustments
  }
  if (num_tokens == 0) return;
  draft.chunks.push_back({.request = &request,
                          .first_token = request.planned_tokens,
                          .num_tokens = num_tokens,
                          .row = samples ? draft.num_rows : -1});
  draft.num_tokens += num_tokens;
  if (!samples) return;
  ++draft.num_rows;
  draft.num_adjustments += request.history.size();
  if (draft.first_for_adjustments == &request) draft.first_for_adjustments = nullptr;
}

bool step_planner::state::fits_adjustments(request_state& request) {
  const int32_t needed = request.history.size();
  if (needed == 0) return true;
  const auto* first = draft.first_for_adjustments;
  const int32_t kept_back = first == nullptr || first == &request ? 0 : first->history.size();
  const int32_t room = limits.plan.max_adjustments - draft.num_adjustments - kept_back;
  request.postponed = needed > room;
  return !request.postponed;
}

plan::step_plan step_planner::state::launch() {
  auto plan = write_step(draft.chunks, pool.take_blocks_to_clear(), limits.plan, epoch, ++step);
  for (const auto& part : draft.chunks) {
    auto& request = *part.request;
    request.planned_tokens += part.num_tokens;
    ++request.steps_in_flight;
    if (part.row < 0) continue;
    ++request.pending_tokens;
    request.last_row = part.row;
  }
  ++totals.steps;
  in_flight.push_back({.step = step,
                       .content = plan.content,
                       .num_rows = plan.logit_rows.size(),
                       .chunks = std::exchange(draft.chunks, {})});
  return plan;
}

// -- who is admitted -----------------------------------------------------------------------------

step_planner::state::admission step_planner::state::admit_from_line(request_state& request) {
  const auto outcome = admit(request);
  if (outcome == admission::admitted || outcome == admission::lacks_rows)
    line.erase(request.arrival);
  if (outcome == admission::lacks_rows) enqueue(request);
  return outcome;
}

step_planner::state::admission step_planner::state::admit(request_state& request) {
  const int32_t room = pool.num_available() - blocks_reserved_for_growth(request);
  if (blocked && blocked->arrival == request.arrival && room <= blocked->room)
    return admission::no_room;
  find_prefix(request);
  if (is_computed_elsewhere(request)) return admission::computed_elsewhere;
  if (lacks_rows(request)) return admission::lacks_rows;
  if (blocks_to_admit(request) > blocks_available() - blocks_reserved_for_growth(request)) {
    blocked = {.arrival = request.arrival, .room = room};
    return admission::no_room;
  }
  if (is_protected(request) && !protection_is_safe(request)) return admission::no_room;

  const int32_t num_blocks = blocks_to_admit(request) + static_cast<int32_t>(prefix.size());
  request.blocks.adopt(pool, prefix);
  const bool grown = request.blocks.grow(pool, num_blocks);
  config::ensure(grown, "request {} was admitted without {} blocks", request.id, num_blocks);
  request.planned_tokens = request.computed_tokens = prefix_tokens();
  request.phase = request_phase::running;
  running.insert(std::ranges::upper_bound(running, request.arrival, {}, &request_state::arrival),
                 &request);
  if (request.cached_tokens < 0) {
    request.cached_tokens = prefix_tokens();
    totals.prompt_tokens += request.prompt_tokens;
    totals.prefix_queries += limits.prefix_cache ? request.prompt_tokens : 0;
    totals.prefix_hits += request.cached_tokens;
  }
  settle(request);
  return admission::admitted;
}

int32_t step_planner::state::blocks_to_admit(const request_state& request) const {
  const int32_t tokens = is_protected(request) ? request.tokens_max() : request.known_tokens();
  return blocks_for(tokens, pool.block_size()) - static_cast<int32_t>(prefix.size());
}

int32_t step_planner::state::blocks_available() const {
  const auto in_cache = std::ranges::count_if(
      prefix, [&](const plan::prefix_link& link) { return pool.holders(link.block) == 0; });
  return pool.num_available() - static_cast<int32_t>(in_cache);
}

int32_t step_planner::state::blocks_reserved_for_growth(const request_state& request) const {
  if (is_oldest(request)) return 0;
  return static_cast<int32_t>(
      std::ranges::count_if(running, [&](const auto* other) { return !is_protected(*other); }));
}

bool step_planner::state::is_oldest(const request_state& request) const {
  return (running.empty() || request.arrival <= running.front()->arrival) &&
         (line.empty() || request.arrival <= line.begin()->first);
}

bool step_planner::state::is_protected(const request_state& request) const {
  return request.preemptions >= limits.max_preemptions;
}

bool step_planner::state::protection_is_safe(const request_state& request) const {
  const auto blocks_max = [&](const request_state& other) {
    return blocks_for(other.tokens_max(), pool.block_size());
  };
  int32_t kept = blocks_max(request);
  for (const auto* other : running)
    if (is_protected(*other)) kept += blocks_max(*other);

  const auto leaves_enough = [&](const request_state& older) {
    return older.arrival > request.arrival || kept + blocks_max(older) <= pool.num_total();
  };
  return std::ranges::all_of(line,
                             [&](const auto& other) {
                               return other.second == &request || leaves_enough(*other.second);
                             }) &&
         std::ranges::all_of(running, [&](const auto* other) {
           return is_protected(*other) || leaves_enough(*other);
         });
}

// -- who gives up blocks -------------------------------------------------------------------------

void step_planner::state::make_room(request_state& request) {
  for (;;) {
    find_prefix(request);  // again: a victim's blocks move between held and cached
    const bool has_seat = std::ssize(running) < limits.plan.max_num_seqs;
    const bool has_blocks = blocks_to_admit(request) <= blocks_available() + blocks_draining();
    if (lacks_rows(request) || (has_seat && has_blocks)) return;
    auto* victim = youngest_preemptible(request.arrival);
    if (victim == nullptr) return;
    preempt(*victim);
  }
}

bool step_planner::state::grow(request_state& request, int32_t num_tokens) {
  const int32_t num_blocks = blocks_for(num_tokens, pool.block_size());
  while (!request.blocks.grow(pool, num_blocks)) {
    if (blocks_draining() > 0)
      return false;  // they come back when the steps in flight are complete
    auto* victim = youngest_preemptible(request.arrival);
    if (victim == nullptr) return false;
    preempt(*victim);
  }
  return true;
}

request_state* step_planner::state::youngest_preemptible(uint64_t younger_than) {
  const auto victim = std::find_if(running.rbegin(), running.rend(),
                                   [&](const auto* request) { return !is_protected(*request); });
  return victim == running.rend() || (*victim)->arrival <= younger_than ? nullptr : *victim;
}

void step_planner::state::preempt(request_state& request) {
  ++request.preemptions;
  ++totals.preemptions;
  stop_running(request);
}

void step_planner::state::stop_running(request_state& request) {
  request.phase = request_phase::preempted;
  if (draft.first_for_adjustments == &request) draft.first_for_adjustments = nullptr;
  std::erase(running, &request);
  line.emplace(request.arrival, &request);
  if (request.steps_in_flight == 0) settle(request);
}

int32_t step_planner::state::blocks_draining() const {
  int32_t blocks = 0;
  for (const auto& [arrival, request] : requests) {
    if (request->phase != request_phase::preempted && request->phase != request_phase::ended)
      continue;
    blocks += static_cast<int32_t>(std::ranges::count_if(
        request->blocks.blocks(), [&](int32_t block) { return pool.holders(block) == 1; }));
  }
  return blocks;
}

}  // namespace troupe::scheduling
