#include "actors/scheduling/sampling_history.hpp"

#include <algorithm>

namespace troupe::scheduling {
namespace {

// Far below any logit, far above the smallest float: stays finite through penalties and
// temperature.
constexpr float banned_bias = -1e9F;

}  // namespace

sampling_history::sampling_history(const plan::sampling_params& sampling,
                                   std::span<const int32_t> prompt,
                                   std::span<const int32_t> stop_tokens)
    : counts_generated_(sampling.frequency_penalty != 0 || sampling.presence_penalty != 0 ||
                        sampling.repetition_penalty != 1),
      counts_prompt_(sampling.repetition_penalty != 1),
      min_tokens_(sampling.min_tokens) {
  for (const auto& [token, bias] : sampling.logit_bias) entry_of(token).adjustment.bias += bias;
  if (min_tokens_ > 0)
    for (const int32_t token : stop_tokens) entry_of(token).stops = true;
  if (counts_prompt_)
    for (const int32_t token : prompt) entry_of(token).adjustment.seen = 1;
}

sampling_history::entry& sampling_history::entry_of(int32_t token) {
  const auto [place, added] = index_.try_emplace(token, entries_.size());
  if (added) entries_.push_back({.adjustment = {.token = token}});
  return entries_[place->second];
}

void sampling_history::record(int32_t token) {
  if (!counts_generated_) return;
  auto& adjustment = entry_of(token).adjustment;
  ++adjustment.generated_count;
  adjustment.seen = 1;
}

int64_t sampling_history::size_max(int32_t max_tokens, int32_t vocab_size) const {
  return std::min<int64_t>(vocab_size, int64_t{size()} + (counts_generated_ ? max_tokens : 0));
}

void sampling_history::append(std::vector<plan::logit_adjustment>& adjustments, int32_t row,
                              int32_t generated_index) const {
  const bool bans = generated_index < min_tokens_;
  for (const auto& known : entries_) {
    auto adjustment = known.adjustment;
    adjustment.row = row;
    if (bans && known.stops) adjustment.bias += banned_bias;
    if (adjustment.generated_count > 0 || adjustment.seen > 0 || adjustment.bias != 0)
      adjustments.push_back(adjustment);
  }
}

}  // namespace troupe::scheduling
