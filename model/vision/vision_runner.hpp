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
};

/// The vision tower: one graph per patch budget, segment boundaries as data. It has no
/// communicator, so uneven pictures cannot deadlock ranks. Lives on one thread.
class vision_runner {
 public:
  vision_runner(std::unique_ptr<gpu::operations> operations, const config::model_config& model,
                vision_weights weights, visual_pool pool, vision_options options);
  ~vision_runner();

  void capture(const std::function<void(int32_t, int32_t)>& progress);

  /// Encodes all items in one run (their patches and segments together fit the options) and writes
  /// main and deepstack rows into the pool: they are there, and the pixels may be changed, when the
  /// milestone has passed. On a device, what the host does for one run goes on beside the one before.
  /// Throws std::invalid_argument for items that do not fit, gpu::stale_graph for a retired pool;
  /// then nothing was written.
  std::unique_ptr<gpu::milestone> start(const std::vector<encode_item>& items);
  /// The same, and returns when the rows are there.
  void encode(const std::vector<encode_item>& items);

  /// Memory by owner; the pool is the node's.
  std::vector<gpu::ledger_entry> ledger() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
