#pragma once

#include "actors/scheduling/slice_pacing.hpp"
#include "gpu/backend.hpp"
#include "model/step_neighbour.hpp"
#include "model/vision/vision_runner.hpp"

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

namespace troupe::actors {

/// FLOP of a slice of the vision tower that takes about `time` of the device.
double slice_flops(std::chrono::microseconds time, const gpu::backend_options& backend);

/// A shard and the vision tower beside it take turns on their device. They live in one process on
/// two threads and share this; neither ever waits for the other on the host: what is issued waits
/// on the device.
///
///   shard thread    step 7 issued ........... done | step 8 issued ................. done |
///   tower thread              slice issued behind 7          slice issued behind 8
///   device          | step 7 ----------- | slice | step 8 ----------------- | slice |
///
/// Shards do not decide, and this decides nothing: all ranks run the plans they are given, in their
/// order and with the same results, and when a slice runs changes no bit of it.
///
/// What is issued before the other side was heard of, in the few microseconds in between, runs
/// beside it. Waits are for what was issued earlier, so there is no cycle, and whoever is gone
/// issues nothing that could be waited for.
class device_turns final : public model::step_neighbour {
 public:
  using clock = scheduling::slice_pacing::clock;
  /// `now` is for tests.
  explicit device_turns(std::function<clock::time_point()> now = clock::now)
      : now_(std::move(now)) {}

  /// From the tower, before it issues anything; what another tower left is forgotten.
  void open(std::chrono::microseconds slice);

  void step_begins(gpu::operations& backend, const plan::step_plan& plan) override;
  void step_issued(gpu::operations& backend) override;
  void step_ends() noexcept override;

  /// Issues the run's next slice if the pacing grants it, and returns its milestone; null: ask
  /// again. `ahead`: slices that were issued and are not done. Throws what issuing throws.
  std::shared_ptr<gpu::milestone> issue_slice(model::vision_runner& tower, int32_t ahead);

  scheduling::pacing_statistics statistics() const;

 private:
  struct turn {
    bool granted = false;
    bool in_order = false;  // steps wait for it, and it for them
    std::shared_ptr<const gpu::milestone> follows;
  };
  turn next_turn(const model::vision_runner& tower, int32_t ahead);

  std::function<clock::time_point()> now_;
  mutable std::mutex mutex_;
  scheduling::slice_pacing pacing_;
  bool being_issued_ = false;                         // a step, to a device
  std::shared_ptr<const gpu::milestone> step_done_;   // of the step that was issued last
  std::shared_ptr<const gpu::milestone> slice_done_;  // of the last slice since a step began
};

}  // namespace troupe::actors
