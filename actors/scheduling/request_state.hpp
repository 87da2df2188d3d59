#pragma once

#include "actors/scheduling/sampling_history.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "model/plan/sequence_blocks.hpp"
#include "model/plan/visual_layout.hpp"

#include <cstdint>
#include <string_view>
#include <vector>

namespace troupe::scheduling {

enum class request_phase : uint8_t {
  waiting_for_media,  // asked for its visual rows, has none yet
  waiting,            // could run; holds no blocks
  running,            // holds blocks
  preempted,          // lost its turn; its blocks stay until no step in flight touches them
  paused,             // its client does not read; holds neither blocks nor rows
  ended               // its end was reported; stays until no step in flight touches it
};
std::string_view to_string(request_phase phase);

enum class media_state : uint8_t {
  none,    // not asked for, or given back
  wanted,  // want_media was sent
  held     // `pool_rows` may be read
};

/// Everything the planner knows of one request.
///
///   0          computed      planned     known      total
///   ├────────────┼─────────────┼───────────┼──────────┤
///    in memory     in flight     to plan     pending: sampled by steps in flight, id not known yet
struct request_state {
  request_state(new_request request, uint64_t arrival, const planner_limits& limits);

  uint64_t arrival;  // age: lower is older; the total order of everything
  request_id id;
  plan::sampling_params sampling;
  time_point deadline;

  request_phase phase = request_phase::waiting;
  media_state media = media_state::none;
  bool postponed =
      false;  // its adjustments did not fit a step; the oldest such goes first in the next
  bool wants_pause = false;  // paused, or preempted on the way there
  int32_t preemptions = 0;
  int32_t replays = 0;

  int32_t prompt_tokens;
  std::array<std::vector<int32_t>, 3> prompt_positions;
  int32_t rope_delta;
  plan::visual_layout visual;
  std::vector<int32_t> pool_rows;  // of its visual tokens, in order; while `media` is held

  std::vector<int32_t> tokens;       // known: prompt, then generated
  std::vector<int32_t> stop_tokens;  // sorted
  sampling_history history;
  int32_t pending_tokens = 0;  // 0..2
  int32_t planned_tokens = 0;
  int32_t computed_tokens = 0;
  int32_t last_row = -1;        // logit row of the newest pending token in its step
  int32_t steps_in_flight = 0;  // that touch its blocks

  plan::sequence_blocks blocks;
  int32_t cached_tokens = -1;  // of the prompt, when it first ran; -1: it never did

  int32_t known_tokens() const { return static_cast<int32_t>(tokens.size()); }
  int32_t total_tokens() const { return known_tokens() + pending_tokens; }
  int32_t generated_tokens() const { return known_tokens() - prompt_tokens; }
  int32_t tokens_to_plan() const { return total_tokens() - planned_tokens; }
  /// False once every token it may still get is being sampled.
  bool wants_token() const { return generated_tokens() + pending_tokens < sampling.max_tokens; }
  /// Tokens whose keys and values it needs at most: the last one generated is never an input.
  int32_t tokens_max() const { return prompt_tokens + sampling.max_tokens - 1; }
  bool stops_at(int32_t token) const;

  plan::sequence_content content() const { return {.tokens = tokens, .visual = visual}; }
  usage_counts usage() const;
};

}  // namespace troupe::scheduling
