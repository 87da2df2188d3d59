#pragma once

#include "gpu/cuda/kernels/typed.cuh"

#include <cstdint>

/// Who goes where in a mixture of experts.
///
/// A pair is one choice of one row: pair p = row * top_k + j is the j-th choice of the row, choices
/// sorted by expert. Pairs name the rows of everything between the two products.
namespace troupe::gpu::cuda {

/// In working memory; filled by routing, read by the products.
struct expert_table {
  int32_t* experts;      // [pairs] the expert of each pair
  float* weights;        // [pairs]
  int32_t* members;      // [pairs] pairs sorted by expert, then by pair
  int32_t* offsets;      // [num_experts + 1] first member of each expert
  int32_t* tile_starts;  // [num_experts + 1] first tile of `tile_rows` members of each expert
  int32_t* active;       // [num_experts] experts that have members, ascending
  int32_t* num_active;
};

/// Members per tile of the product for many rows.
constexpr int32_t tile_rows = 128;

/// Sizes, known at the launch.
struct expert_sizes {
  int32_t capacity;  // rows
  int32_t hidden;
  int32_t width;
  int32_t num_experts;
  int32_t top_k;

  __host__ __device__ int64_t pairs() const { return int64_t{capacity} * top_k; }
};

/// One of the two products: for each member p of an expert, output row p = weight[expert] * input
/// row.
template <class T>
struct expert_product {
  matrix<const T> input;  // row p / pairs_per_input_row
  const T* weight;        // [num_experts][out, in]
  void* output;           // gated: T [pairs, out / 2]; else f32 [pairs, out]
  int32_t pairs_per_input_row;
  int32_t in;
  int32_t out;

  __device__ const T* input_row(int32_t pair) const {
    return input.row(pair / pairs_per_input_row);
  }
  __device__ const T* weight_row(int32_t expert, int32_t row) const {
    return weight + (int64_t{expert} * out + row) * in;
  }
  __device__ T* gated_row(int32_t pair) const {
    return static_cast<T*>(output) + int64_t{pair} * (out / 2);
  }
  __device__ float* sum_row(int32_t pair) const {
    return static_cast<float*>(output) + int64_t{pair} * out;
  }
};

/// silu(gate) * up with the roundings of operations::silu_and_mul.
template <class T>
__device__ __forceinline__ float gated(float gate, float up) {
  const float x = rounded<T>(gate);
  return rounded<T>(x / (1.0F + __expf(-x))) * rounded<T>(up);
}

}  // namespace troupe::gpu::cuda
