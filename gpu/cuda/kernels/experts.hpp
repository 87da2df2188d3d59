#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

/// Sizes of one mixture of experts. T is `type`.
struct expert_shape {
  dtype type = dtype::bf16;
  int64_t rows = 0;  // capacity
  int64_t hidden = 0;
  int64_t width = 0;  // of the experts' hidden layer on this rank
  int32_t num_experts = 0;
  int32_t top_k = 0;
};

/// Strides are in elements. Experts lie `*_stride` apart: contiguous in one allocation.
struct mixture_of_experts_arguments {
  expert_shape shape;
  float* output = nullptr;               // [rows, hidden]
  const void* input = nullptr;           // T [rows, hidden]
  const float* router_logits = nullptr;  // [rows, num_experts]
  const void* gate_up = nullptr;         // T [num_experts][2 * width, hidden], gate first
  const void* down = nullptr;            // T [num_experts][hidden, width]
  const int32_t* live_rows = nullptr;
  std::byte* scratch =
      nullptr;  // mixture_of_experts_scratch_bytes, zeroed once before the first launch
  int64_t output_stride = 0;
  int64_t input_stride = 0;
  int64_t router_stride = 0;
  int64_t gate_up_stride = 0;
  int64_t down_stride = 0;
};

/// Bytes of working memory; 256-byte aligned. Launches on one stream may share the memory of the
/// largest shape.
int64_t mixture_of_experts_scratch_bytes(const expert_shape& shape);

/// See operations::mixture_of_experts. The sum over a row's experts runs by ascending index, in
/// f32. Throws gpu::error.
void launch_mixture_of_experts(const mixture_of_experts_arguments& arguments,
                               const launch_context& on);

}  // namespace troupe::gpu::cuda
