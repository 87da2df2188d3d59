#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/lane_view.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

/// Collectives over the ranks of a lane, in device memory that every rank has mapped; its layout is
/// in gpu/cuda/lane_layout.hpp. All ranks launch the same collectives in the same order with the
/// same shapes, live counts and `num_sms`. A grid never has more than `num_sms` CTAs: where ranks
/// share a device, give each num_sms / ranks, and no programmatic launches. Views are checked by
/// the caller; semantics are those of gpu/operations.hpp. `live` points to the live row count in
/// device memory.
namespace troupe::gpu::cuda {

struct all_reduce_add_norm_arguments {
  tensor_view normed, residual;  // residual is updated in place
  tensor_view partial;           // f32
  tensor_view norm_weight;
  tensor_view pool_level;  // [pool_rows, width]; rank 0: no deepstack level
  tensor_view row_map;
  float epsilon;
  lane_view lane;  // of more than one rank: slot_bytes at least lane_slot_bytes(rows, width)
  const int32_t* live;
};
/// Throws gpu::error.
void launch_all_reduce_add_norm(const all_reduce_add_norm_arguments& arguments,
                                const launch_context& on);

struct all_gather_columns_arguments {
  tensor_view output, part;  // f32
  lane_view lane;            // of more than one rank: slot_bytes at least lane_slot_bytes of `part`
  const int32_t* live;
};
/// Throws gpu::error.
void launch_all_gather_columns(const all_gather_columns_arguments& arguments,
                               const launch_context& on);

}  // namespace troupe::gpu::cuda
