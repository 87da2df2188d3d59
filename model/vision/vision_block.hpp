#pragma once

#include "model/vision/vision_step.hpp"

namespace troupe::model {

/// One block of the tower: full attention inside each frame, then a GELU MLP, both added to `x`.
struct vision_block {
  layer_norm norm1;
  gpu::linear_weight qkv;
  gpu::linear_weight proj;
  layer_norm norm2;
  gpu::linear_weight fc1;
  gpu::linear_weight fc2;
  int32_t num_heads = 0;

  void issue_attention(const vision_step& step) const;
  void issue_mlp(const vision_step& step) const;
};

}  // namespace troupe::model
