#pragma once

#include "actors/device_turns.hpp"
#include "gpu/operations.hpp"
#include "model/vision/vision_runner.hpp"

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

namespace troupe::actors {

/// Between two calls of `advance`: short against a slice, long against a look.
inline constexpr std::chrono::microseconds tower_poll_interval{20};

/// Runs of a vision tower on their way through a device, oldest first:
///
///   waiting | begun: slices left to issue | issued, not done | finished
///
/// A run is issued whole before the next begins, since all work on the same memory. Lives on the
/// tower's thread.
class tower_runs {
 public:
  tower_runs(model::vision_runner& tower, device_turns& turns) : tower_(&tower), turns_(&turns) {}

  /// Throws std::invalid_argument for items that the tower cannot take; then nothing was added.
  /// Their pixels must stay until the run is finished.
  void add(std::vector<model::encode_item> items);

  /// Issues what it is the tower's turn to issue. Returns how many runs were finished since the
  /// last call, the oldest ones. If it throws, all that was not finished is given up.
  int32_t advance();

  /// Of those added, the ones that are neither finished nor given up.
  int32_t unfinished() const { return unfinished_; }

 private:
  struct issued_slice {
    std::shared_ptr<gpu::milestone> done;
    bool last = false;  // of its run
  };

  bool begin_next();
  bool issue_slice();
  int32_t collect();
  void give_up();

  model::vision_runner* tower_;
  device_turns* turns_;
  std::deque<std::vector<model::encode_item>> waiting_;
  std::deque<issued_slice> issued_;  // not known to be done
  int32_t unfinished_ = 0;
};

}  // namespace troupe::actors
