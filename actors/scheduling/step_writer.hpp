#pragma once

#include "actors/scheduling/request_state.hpp"
#include "model/plan/step_plan.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::scheduling {

/// One request's part of a step: its tokens [first_token, first_token + num_tokens).
struct chunk {
  request_state* request = nullptr;
  int32_t first_token = 0;
  int32_t num_tokens = 0;
  int32_t row =
      -1;  // logit row that samples its next token; -1: the prompt goes on in a later step
};

/// Writes the step of `chunks`, digest included. The requests' blocks cover their chunks; their
/// counters are those before the step. `cleared_blocks` are zeroed first.
plan::step_plan write_step(std::span<const chunk> chunks, std::vector<int32_t> cleared_blocks,
                           const plan::plan_limits& limits, uint64_t epoch, uint64_t step);

}  // namespace troupe::scheduling
