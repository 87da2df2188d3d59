#pragma once

#include "gpu/cpu/kernels.hpp"
#include "gpu/tensor_view.hpp"

namespace troupe::gpu::cpu {

template <class T>
strided<T> rows_of(const tensor_view& view) {
  return {view.as<T>(), view.row_stride};
}

/// Calls `body(T{})` with T = float or bfloat16 as `type`, which must be one of them.
template <class Body>
auto with_activation(dtype type, const Body& body) {
  return type == dtype::bf16 ? body(bfloat16{}) : body(float{});
}

}  // namespace troupe::gpu::cpu
