#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/cuda/kernels/rotary.hpp"
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

/// What follows the product in the same kernel: the block that completes what is needed goes on with it.
/// `tickets`: `skinny_tickets` words, zero before the first launch; launches of one stream share them.
inline constexpr int32_t skinny_tickets = 1024;

/// Every head of the output, bf16 [rows, heads * head_dim], is normed, rotated and written to the cache
/// as `launch_text_rope` does; `rope.qkv` is the output.
struct head_finish {
  text_rope_arguments rope;
  uint32_t* tickets;
};

/// residual += round(output), f32 [rows, width], + the pool's row; normed = rms_norm(residual).
struct norm_finish {
  tensor_view normed, residual, norm_weight;
  tensor_view pool_level;  // rank 0: no deepstack level
  tensor_view row_map;
  float epsilon;
  const int32_t* live;
  uint32_t* tickets;
};

/// Whether the kernel takes these shapes: at most `skinny_rows_max` rows, and weight rows of whole
/// cache lines.
inline constexpr int64_t skinny_rows_max = 32;
bool takes_skinny_linear(const skinny_linear_arguments& arguments);

/// Every row of the output depends on its own input row alone, and its bits do not depend on the number
/// of rows.
void launch_skinny_linear(const skinny_linear_arguments& arguments, const launch_context& on);

/// The same with a finish, for at most `skinny_finish_rows_max` rows: with more a kernel of its own, spread
/// over all multiprocessors, is faster.
inline constexpr int64_t skinny_finish_rows_max = 8;
bool takes_finish(const skinny_linear_arguments& arguments, const head_finish& finish);
bool takes_finish(const skinny_linear_arguments& arguments, const norm_finish& finish);
void launch_skinny_linear(const skinny_linear_arguments& arguments, const head_finish& finish,
                          const launch_context& on);
void launch_skinny_linear(const skinny_linear_arguments& arguments, const norm_finish& finish,
                          const launch_context& on);

}  // namespace troupe::gpu::cuda
