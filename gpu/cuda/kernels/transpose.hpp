#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstddef>

namespace troupe::gpu::cuda {

/// target[c][r] = source[r][c]: `source` is dense, rows of `target` may have gaps. Any dtype of 2
/// or 4 bytes.
struct transpose_arguments {
  tensor_view target;  // [columns, rows]
  const std::byte* source = nullptr;
};

void launch_transpose(const transpose_arguments& arguments, const launch_context& on);

}  // namespace troupe::gpu::cuda
