#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

/// Kernels that work on each row of a matrix alone. Views are checked by the caller; semantics are those
/// of gpu/operations.hpp. `live` points to the live row count in device memory.
namespace troupe::gpu::cuda {

struct embed_arguments {
  tensor_view output, resolved_ids, token_ids, sampled, table;
  tensor_view pool_level;  // [pool_rows, hidden]
  tensor_view row_map;
  const int32_t* live;
};
void launch_embed(const embed_arguments& arguments, const launch_context& on);

struct row_copy_arguments {
  tensor_view output, input, index;
  const int32_t* live;
};
/// output[i] = input[index[i]] (row 0 for an index outside).
void launch_gather_rows(const row_copy_arguments& arguments, const launch_context& on);
/// output[index[i]] = input[i] where the index is a row.
void launch_scatter_rows(const row_copy_arguments& arguments, const launch_context& on);

struct norm_arguments {
  tensor_view output, input, weight, bias;  // bias: layer norm only
  float epsilon;
  const int32_t* live;
};
void launch_rms_norm(const norm_arguments& arguments, const launch_context& on);
void launch_layer_norm(const norm_arguments& arguments, const launch_context& on);

enum class row_function : uint8_t { silu_and_mul, gelu_tanh, gelu_erf, add };

struct elementwise_arguments {
  row_function function;
  tensor_view output;  // read as well by `add`
  tensor_view input;   // twice as wide for silu_and_mul: gate, then up
  const int32_t* live;
};
void launch_elementwise(const elementwise_arguments& arguments, const launch_context& on);

}  // namespace troupe::gpu::cuda
