#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/lane_view.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

/// Collectives over the ranks of a lane, in device memory that every rank has mapped. The layout of
/// a lane's piece is in gpu/cuda/lane_layout.hpp. All ranks launch the same collectives in the same
/// order with the same shapes, live counts and `num_sms`. A grid never has more than `num_sms`
/// CTAs: where ranks share a device, give each num_sms / ranks, and no programmatic launches.
namespace troupe::gpu::cuda {

/// Rows are contiguous; strides are in elements. T is `type`.
struct all_reduce_add_norm_arguments {
  lane_view lane;  // size > 1: slot_bytes >= lane_slot_bytes(rows * width * 4)
  dtype type = dtype::bf16;
  void* normed = nullptr;    // T [rows, width]
  void* residual = nullptr;  // T [rows, width], updated in place
  const float* partial = nullptr;
  const void* norm_weight = nullptr;  // T [width]
  const void* pool_level = nullptr;   // T [pool_rows, width]; null: no deepstack level
  const int32_t* row_map = nullptr;   // [rows], read with a pool level alone
  const int32_t* live_rows = nullptr;
  int64_t normed_stride = 0;
  int64_t residual_stride = 0;
  int64_t partial_stride = 0;
  int64_t pool_stride = 0;
  int64_t pool_rows = 0;
  int64_t rows = 0;  // capacity
  int64_t width = 0;
  float epsilon = 0;
};

/// See operations::all_reduce_add_norm. Throws gpu::error.
void launch_all_reduce_add_norm(const all_reduce_add_norm_arguments& arguments,
                                const launch_context& on);

struct all_gather_columns_arguments {
  lane_view lane;               // size > 1: slot_bytes >= lane_slot_bytes(rows * width * 4)
  float* output = nullptr;      // [rows, lane.size * width]
  const float* part = nullptr;  // [rows, width]
  const int32_t* live_rows = nullptr;
  int64_t output_stride = 0;
  int64_t part_stride = 0;
  int64_t rows = 0;   // capacity
  int64_t width = 0;  // of a part
};

/// See operations::all_gather_columns. Throws gpu::error.
void launch_all_gather_columns(const all_gather_columns_arguments& arguments,
                               const launch_context& on);

}  // namespace troupe::gpu::cuda
