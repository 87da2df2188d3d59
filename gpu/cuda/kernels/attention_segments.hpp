#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

namespace troupe::gpu::cuda {

/// Full attention inside each segment, as operations::segment_attention states it. All pointers are
/// device memory; strides in elements.
///
/// output         [max_patches, num_heads * head_dim]      `type`, 16-byte aligned rows
/// qkv            [max_patches, 3 * num_heads * head_dim]  `type`, 16-byte aligned rows
/// segment_start  [max_segments + 1] i32
///
/// segment_start, segments and patches are inputs of the step that only copies write: they are read
/// before the predecessor has ended.
struct segment_attention_arguments {
  dtype type = dtype::bf16;
  void* output = nullptr;
  int64_t output_stride = 0;
  const void* qkv = nullptr;
  int64_t qkv_stride = 0;
  int32_t num_heads = 0;
  int32_t head_dim = 0;
  const int32_t* segment_start = nullptr;
  const int32_t* segments = nullptr;  // live count
  const int32_t* patches = nullptr;   // live count
  int32_t max_segments = 0;
  int32_t max_patches = 0;
};

/// head_dim a multiple of 8 up to 128. bf16 runs on the tensor cores, f32 by a plain kernel.
void launch_segment_attention(const segment_attention_arguments& arguments,
                              const launch_context& on);

}  // namespace troupe::gpu::cuda
