#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

/// `linear` for few rows of bf16 activations, where streaming the weights is all that counts.
namespace troupe::gpu::cuda {

struct skinny_linear_arguments {
  tensor_view output;  // [rows, out] f32 or bf16; gated: [rows, out / 2] bf16
  tensor_view input;   // [rows, in] bf16
  tensor_view weight;  // [out, in] bf16
  tensor_view bias;    // [out] bf16, or rank 0
  bool gated = false;  // output = silu(first half of the columns) * second half
};

/// Whether the kernel takes these shapes: at most `skinny_rows_max` rows, and weight rows of whole
/// cache lines.
inline constexpr int64_t skinny_rows_max = 32;
bool takes_skinny_linear(const skinny_linear_arguments& arguments);

/// Every row of the output depends on its own input row alone, and its bits do not depend on the number
/// of rows.
void launch_skinny_linear(const skinny_linear_arguments& arguments, const launch_context& on);

}  // namespace troupe::gpu::cuda
