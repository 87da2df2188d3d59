#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/vision/image_processor.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace troupe::model {

/// One item to encode and where its rows go.
struct encode_item {
  const patch_rows* patches = nullptr;
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
  /// main and deepstack rows into the pool. Returns when the rows are there. Throws
  /// std::invalid_argument for items that do not fit, gpu::stale_graph for a retired pool; then
  /// nothing was written.
  void encode(const std::vector<encode_item>& items);

  /// Memory by owner; the pool is the node's.
  std::vector<gpu::ledger_entry> ledger() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
