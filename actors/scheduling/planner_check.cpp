#include "actors/scheduling/admission.hpp"
#include "actors/scheduling/planner_state.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::scheduling {

std::string step_planner::state::check() const {
  for (const auto& [arrival, request] : requests)
    if (auto fault = check_request(*request); !fault.empty())
      return fmt::format("request {} ({}): {}", request->id, to_string(request->phase), fault);
  if (auto fault = check_lines(); !fault.empty()) return fault;
  if (auto fault = check_steps(); !fault.empty()) return fault;
  return check_blocks();
}

std::string step_planner::state::check_request(const request_state& r) const {
  const bool holds_blocks = r.phase == request_phase::running ||
                            r.phase == request_phase::preempted || r.phase == request_phase::ended;
  if (!holds_blocks && (r.blocks.size() > 0 || r.planned_tokens > 0 || r.steps_in_flight > 0))
    return fmt::format("{} blocks, {} planned tokens, {} steps in flight, expected none",
                       r.blocks.size(), r.planned_tokens, r.steps_in_flight);
  if (r.phase != request_phase::running && holds_blocks && r.steps_in_flight == 0)
    return "no step in flight touches it, but it was not settled";
  if (r.computed_tokens > r.planned_tokens || r.planned_tokens > r.total_tokens())
    return fmt::format("{} computed, {} planned, {} in all: expected ascending numbers",
                       r.computed_tokens, r.planned_tokens, r.total_tokens());
  if (r.blocks.size() < blocks_for(r.planned_tokens, pool.block_size()))
    return fmt::format("{} blocks for {} planned tokens", r.blocks.size(), r.planned_tokens);
  if (r.phase != request_phase::ended &&
      r.generated_tokens() + r.pending_tokens > r.sampling.max_tokens)
    return fmt::format("{} tokens and {} pending, limit {}", r.generated_tokens(), r.pending_tokens,
                       r.sampling.max_tokens);
  if ((r.media == media_state::wanted) != (r.phase == request_phase::waiting_for_media))
    return "its phase contradicts whether its rows were asked for";
  if (r.phase == request_phase::paused && (!r.wants_pause || r.media != media_state::none))
    return "it is paused without a wish to, or with visual rows";
  if (!r.pool_rows.empty() != (r.media == media_state::held))
    return fmt::format("{} pool rows, but rows are {}", r.pool_rows.size(),
                       r.media == media_state::held ? "held" : "not held");
  if (r.phase == request_phase::running && r.media == media_state::none &&
      r.computed_tokens < r.visual.end_token())
    return fmt::format("{} tokens computed of {} with pictures, but it holds no rows",
                       r.computed_tokens, r.visual.end_token());
  if (r.preemptions > limits.max_preemptions)
    return fmt::format("{} preemptions, limit {}", r.preemptions, limits.max_preemptions);
  if (r.phase == request_phase::running && is_protected(r) &&
      r.blocks.size() < blocks_for(r.tokens_max(), pool.block_size()))
    return fmt::format("protected with {} blocks, expected enough for {} tokens", r.blocks.size(),
                       r.tokens_max());
  return {};
}

std::string step_planner::state::check_lines() const {
  if (std::ssize(running) > limits.plan.max_num_seqs)
    return fmt::format("{} requests run, limit {}", running.size(), limits.plan.max_num_seqs);
  if (!std::ranges::is_sorted(running, {}, &request_state::arrival))
    return "running requests are not in order of arrival";
  size_t num_running = 0, num_in_line = 0, num_live = 0;
  for (const auto& [arrival, request] : requests) {
    const auto phase = request->phase;
    const bool is_running = std::ranges::find(running, request.get()) != running.end();
    const bool is_in_line = line.contains(arrival);
    if (is_running != (phase == request_phase::running) ||
        is_in_line != (phase == request_phase::waiting || phase == request_phase::preempted) ||
        by_id.contains(request->id) != (phase != request_phase::ended))
      return fmt::format("request {} ({}) is in the wrong lists", request->id, to_string(phase));
    num_running += is_running;
    num_in_line += is_in_line;
    num_live += phase != request_phase::ended;
  }
  if (num_running != running.size() || num_in_line != line.size() || num_live != by_id.size())
    return fmt::format("lists have {} running, {} in line, {} live requests, counted {}, {}, {}",
                       running.size(), line.size(), by_id.size(), num_running, num_in_line,
                       num_live);
  return {};
}

std::string step_planner::state::check_steps() const {
  if (in_flight.size() > max_steps_in_flight)
    return fmt::format("{} steps in flight, limit {}", in_flight.size(), max_steps_in_flight);
  std::map<const request_state*, int32_t> steps, tokens, rows;
  uint64_t expected = step - in_flight.size();
  for (const auto& flight : in_flight) {
    if (flight.step != ++expected)
      return fmt::format("step {} in flight, expected {}", flight.step, expected);
    for (const auto& part : flight.chunks) {
      const auto& r = *part.request;
      const auto owner = requests.find(r.arrival);
      if (owner == requests.end() || owner->second.get() != &r)
        return fmt::format("step {} touches a request that is gone", flight.step);
      ++steps[&r];
      tokens[&r] += part.num_tokens;
      rows[&r] += part.row >= 0;
      if (r.blocks.size() < blocks_for(part.first_token + part.num_tokens, pool.block_size()))
        return fmt::format("step {} touches tokens of request {} behind its {} blocks", flight.step,
                           r.id, r.blocks.size());
    }
  }
  for (const auto& [arrival, request] : requests) {
    const auto* r = request.get();
    const auto of = [&](const auto& counts) {
      const auto found = counts.find(r);
      return found == counts.end() ? 0 : found->second;
    };
    if (of(steps) != r->steps_in_flight || of(tokens) != r->planned_tokens - r->computed_tokens ||
        (r->phase != request_phase::ended && of(rows) != r->pending_tokens))
      return fmt::format(
          "request {} has {} steps, {} tokens, {} rows in flight, counted {}, {}, {}", r->id,
          r->steps_in_flight, r->planned_tokens - r->computed_tokens, r->pending_tokens, of(steps),
          of(tokens), of(rows));
  }
  return {};
}

std::string step_planner::state::check_blocks() const {
  std::vector<int32_t> holders(static_cast<size_t>(limits.plan.num_blocks));
  for (const auto& [arrival, request] : requests)
    for (const int32_t block : request->blocks.blocks()) ++holders[static_cast<size_t>(block)];
  if (pool.num_free() + pool.num_cached() + pool.num_held() != pool.num_total())
    return fmt::format("{} free, {} cached, {} held blocks, expected {} in all", pool.num_free(),
                       pool.num_cached(), pool.num_held(), pool.num_total());
  return pool.check(holders);
}

}  // namespace troupe::scheduling
