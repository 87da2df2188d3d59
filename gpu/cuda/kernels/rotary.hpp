#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/operations.hpp"

#include <cstdint>

/// Positions: rotary embeddings of text and pictures, and the learned table of the vision tower.
namespace troupe::gpu::cuda {

struct text_rope_arguments {
  tensor_view qkv, q_weight, k_weight, positions;
  float epsilon;
  text_rotary rotary;
  tensor_view slot_mapping;
  paged_kv cache;
  const int32_t* live;
};
/// See operations::qk_norm_rope_cache_write.
void launch_text_rope(const text_rope_arguments& arguments, const launch_context& on);

struct vision_rope_arguments {
  tensor_view qkv, coordinates;
  int32_t num_heads;
  float theta;
  const int32_t* live;
};
void launch_vision_rope(const vision_rope_arguments& arguments, const launch_context& on);

struct position_embedding_arguments {
  tensor_view x, table, coordinates;
  int32_t side;
  const int32_t* live;
};
void launch_position_embedding(const position_embedding_arguments& arguments,
                               const launch_context& on);

}  // namespace troupe::gpu::cuda
