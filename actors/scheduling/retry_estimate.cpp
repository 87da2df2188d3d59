#include "actors/scheduling/retry_estimate.hpp"

#include <algorithm>

namespace troupe::scheduling {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds shortest_wait{1'000};  // Retry-After counts whole seconds
constexpr milliseconds longest_wait{60'000};
constexpr milliseconds window{500};
constexpr double weight_of_newest = 0.5;

}  // namespace

void retry_estimate::note(time_point now, int64_t tokens_computed) {
  if (!last_) last_ = sample{.time = now, .tokens_computed = tokens_computed};
  const auto elapsed = now - last_->time;
  if (elapsed < window) return;
  const auto tokens = static_cast<double>(tokens_computed - last_->tokens_computed);
  if (tokens > 0) {
    const double rate = tokens / std::chrono::duration<double>(elapsed).count();
    tokens_per_second_ +=
        (rate - tokens_per_second_) * (tokens_per_second_ == 0 ? 1 : weight_of_newest);
  }
  last_ = sample{.time = now, .tokens_computed = tokens_computed};
}

milliseconds retry_estimate::time_for(int64_t tokens) const {
  if (tokens_per_second_ <= 0) return shortest_wait;
  const double wait_ms = 1'000 * static_cast<double>(tokens) / tokens_per_second_;
  return milliseconds(
      static_cast<int64_t>(std::clamp(wait_ms, static_cast<double>(shortest_wait.count()),
                                      static_cast<double>(longest_wait.count()))));
}

}  // namespace troupe::scheduling
