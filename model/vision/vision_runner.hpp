#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/vision/image_processor.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

namespace troupe::model {

/// One item to encode and where its rows go.
struct encode_item {
  patch_grid grid;
  std::span<const std::byte> pixels;      // [patches, patch_width] of the activation dtype, on the host
  std::vector<int32_t> destination_rows;  // [patches / merge_unit] pool rows
};

struct vision_options {
  gpu::dtype activation = gpu::dtype::bf16;
  bool eager = false;
  int32_t max_patches = 0;   // per run; rounded up to whole merge blocks
  int32_t max_segments = 0;  // frames per run
  double max_slice_flops = 0;  // of what is given to the device at once; 0: whole runs
};

/// The vision tower: graphs per patch budget, segment boundaries as data. It has no communicator, so
/// uneven pictures cannot deadlock ranks. Lives on one thread.
///
/// Whoever shares the device waits for what was given to it, so a run can be given in slices:
///
///   begin | slice, slice, ... slice | begin | ...
///
/// A slice is neighbouring parts of the tower (embedding, halves of blocks, mergers) with a graph of their
/// own. How many parts follows from their FLOP when one frame fills the budget: a measured time would tell
/// of what else the device does during start, and cut otherwise at every start. All of a run gives the same
/// rows however it is cut.
class vision_runner {
 public:
  vision_runner(std::unique_ptr<gpu::operations> operations, const config::model_config& model,
                vision_weights weights, visual_pool pool, vision_options options);
  ~vision_runner();

  void capture(const std::function<void(int32_t, int32_t)>& progress);

  /// Throws std::invalid_argument for items that do not fit the options and the pool.
  void require_fitting(const std::vector<encode_item>& items) const;

  /// Sends what a run of all items needs to the device, behind what was issued before; no slices of an
  /// earlier run may be left. On a device, what the host does for one run goes on beside the one before.
  /// Throws as `require_fitting`, gpu::stale_graph for a retired pool; then there is no run.
  void begin(const std::vector<encode_item>& items);
  /// Slices of the run that `issue_slice` has not issued.
  int32_t slices_left() const;
  /// Whether the slices of the run take about max_slice_flops at most. Those of very large pictures take
  /// longer: attention inside a frame is not cut.
  bool slices_are_bounded() const;
  /// Issues the next slice. The milestone of the last passes when main and deepstack rows are in the pool
  /// and the pixels may be changed. If it throws, nothing is left of the run, and its rows hold garbage.
  std::unique_ptr<gpu::milestone> issue_slice();
  /// Nothing more of the run is issued; its rows hold garbage.
  void abandon();
  /// What is issued from now on begins when `earlier` has passed.
  void wait_for(const gpu::milestone& earlier);

  /// A whole run; returns when the rows are there.
  void encode(const std::vector<encode_item>& items);

  /// Memory by owner; the pool is the node's.
  std::vector<gpu::ledger_entry> ledger() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
