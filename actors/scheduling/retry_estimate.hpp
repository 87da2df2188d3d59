#pragma once

#include "actors/scheduling/step_planner.hpp"

#include <chrono>
#include <cstdint>
#include <optional>

namespace troupe::scheduling {

/// How long a refused client should wait, from the rate at which tokens were computed lately.
class retry_estimate {
 public:
  /// `tokens_computed`: since start, never falling. Idle times do not lower the rate.
  void note(time_point now, int64_t tokens_computed);

  /// Time until `tokens` more are computed, in 1 s .. 60 s.
  std::chrono::milliseconds time_for(int64_t tokens) const;

 private:
  struct sample {
    time_point time;
    int64_t tokens_computed = 0;
  };
  std::optional<sample> last_;
  double tokens_per_second_ = 0;  // 0: not known yet
};

}  // namespace troupe::scheduling
