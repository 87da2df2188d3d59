#include "actors/scheduling/request_state.hpp"

#include <algorithm>
#include <utility>

namespace troupe::scheduling {
namespace {

/// Every id that may end the request, sorted.
std::vector<int32_t> collect_stop_tokens(const plan::sampling_params& sampling,
                                         const planner_limits& limits) {
  auto ids = sampling.stop_token_ids;
  if (!sampling.ignore_eos)
    ids.insert(ids.end(), limits.end_token_ids.begin(), limits.end_token_ids.end());
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

}  // namespace

std::string_view to_string(request_phase phase) {
  switch (phase) {
    case request_phase::waiting_for_media:
      return "waiting_for_media";
    case request_phase::waiting:
      return "waiting";
    case request_phase::running:
      return "running";
    case request_phase::preempted:
      return "preempted";
    case request_phase::paused:
      return "paused";
    case request_phase::ended:
      return "ended";
  }
  return "unknown";
}

request_state::request_state(new_request request, uint64_t request_arrival,
                             const planner_limits& limits)
    : arrival(request_arrival),
      id(request.id),
      sampling(std::move(request.sampling)),
      deadline(request.deadline),
      prompt_tokens(static_cast<int32_t>(request.prompt.token_ids.size())),
      prompt_positions(std::move(request.prompt.positions)),
      rope_delta(request.prompt.rope_delta),
      visual(std::move(request.prompt.spans)),
      tokens(std::move(request.prompt.token_ids)),
      stop_tokens(collect_stop_tokens(sampling, limits)),
      history(sampling, tokens, stop_tokens) {}

bool request_state::stops_at(int32_t token) const {
  // The token is the last known one; stop tokens before `min_tokens` do not count.
  return generated_tokens() > sampling.min_tokens &&
         std::binary_search(stop_tokens.begin(), stop_tokens.end(), token);
}

usage_counts request_state::usage() const {
  return {.prompt_tokens = prompt_tokens,
          .cached_tokens = std::max(cached_tokens, 0),
          .visual_tokens = visual.num_tokens(),
          .completion_tokens = generated_tokens()};
}

}  // namespace troupe::scheduling
