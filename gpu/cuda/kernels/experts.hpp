#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

/// Views are checked by the caller; see operations::mixture_of_experts.
struct mixture_of_experts_arguments {
  tensor_view output;         // [rows, hidden] f32
  tensor_view input;          // [rows, hidden]
  tensor_view router_logits;  // [rows, experts] f32
  tensor_view gate_up;        // [experts, 2 * width, hidden], gate first; contiguous
  tensor_view down;           // [experts, hidden, width]; contiguous
  int32_t top_k;
  const int32_t* live;
  std::byte* scratch;  // mixture_of_experts_scratch_bytes, zeroed once before the first launch
};

/// What the working memory of a mixture depends on.
struct mixture_of_experts_shape {
  dtype activation;
  int64_t rows, hidden_size, expert_width;
  int32_t num_experts, top_k;
};
mixture_of_experts_shape shape_of(const mixture_of_experts_arguments& arguments);

/// Bytes of working memory, 256-byte aligned. Launches of one stream may share the largest.
int64_t mixture_of_experts_scratch_bytes(const mixture_of_experts_shape& shape);

/// The sum over a row's experts runs by ascending index, in f32. Throws gpu::error.
void launch_mixture_of_experts(const mixture_of_experts_arguments& arguments,
                               const launch_context& on);

}  // namespace troupe::gpu::cuda
