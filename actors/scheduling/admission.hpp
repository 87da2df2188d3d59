#pragma once

#include "actors/scheduling/request_state.hpp"
#include "actors/scheduling/step_planner.hpp"

#include <optional>
#include <string>

namespace troupe::scheduling {

/// Why a request can never run, whatever else is going on.
struct refusal {
  rejection reason = rejection::malformed;
  std::string detail;  // found and limit
};

/// Checks that the request is of one piece: array lengths, ids, spans, numbers in their ranges.
/// Nothing else may look at it before.
std::optional<refusal> find_malformation(const new_request& request, const planner_limits& limits);

/// Checks that the request, alone, fits context, KV blocks, visual pool and adjustments.
std::optional<refusal> find_misfit(const request_state& request, const planner_limits& limits);

/// KV blocks for `tokens` tokens.
int32_t blocks_for(int64_t tokens, int32_t block_size);

}  // namespace troupe::scheduling
