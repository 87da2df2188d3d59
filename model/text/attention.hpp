#pragma once

#include "model/text/text_step.hpp"

namespace troupe::model {

/// Grouped-query self-attention of one layer over the paged cache.
struct attention {
  gpu::linear_weight qkv;
  gpu::linear_weight output;
  gpu::tensor_view q_norm;  // [head_dim]
  gpu::tensor_view k_norm;  // [head_dim]
  gpu::text_rotary rotary;
  gpu::paged_kv cache;

  /// Reads `normed`; leaves this rank's part of the result in `partial`.
  void issue(const text_step& step) const;
};

}  // namespace troupe::model
