#pragma once

#include "gpu/operations.hpp"
#include "model/arena_builder.hpp"
#include "model/plan/step_plan.hpp"

#include <cstddef>
#include <vector>

namespace troupe::model {

/// Keys and values of all layers of one rank, in blocks that step plans address by number.
class kv_cache {
 public:
  kv_cache(gpu::memory_kind kind, gpu::dtype activation, int32_t num_layers, int32_t num_kv_heads,
           int32_t head_dim, const plan::plan_limits& limits);

  const gpu::paged_kv& layer(int32_t index) const { return layers_[static_cast<size_t>(index)]; }
  /// Zeroes the keys and values of block `block` in all layers, before operations issued later.
  void clear(gpu::operations& backend, int32_t block) const;

  const gpu::arena& arena() const { return arena_; }
  gpu::arena& arena() { return arena_; }

 private:
  std::vector<gpu::paged_kv> layers_;
  gpu::arena arena_;
  std::vector<std::byte> zeros_;  // of the keys of one block of one layer
};

}  // namespace troupe::model
