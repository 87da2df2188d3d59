#pragma once

#include "gpu/cuda/kernels/numeric.cuh"
#include "gpu/tensor_view.hpp"

namespace troupe::gpu::cuda {

/// Rows of elements, `stride` elements apart.
template <class T>
struct matrix {
  T* data;
  int64_t stride;

  __device__ __forceinline__ T* row(int64_t index) const { return data + index * stride; }
};

template <class T>
matrix<T> matrix_of(const tensor_view& view) {
  return {view.as<T>(), view.row_stride};
}

/// Calls `function` with a value of the activation type that `type` names: float or bf16.
template <class Function>
void with_activation(dtype type, Function&& function) {
  if (type == dtype::bf16)
    function(bf16{});
  else
    function(float{});
}

/// Whether every row of `view` starts at a multiple of 16 bytes and holds whole 16-byte vectors.
inline bool in_vectors(const tensor_view& view) {
  const int64_t per_vector = 16 / size_of(view.type);
  return view.width() % per_vector == 0 && view.row_stride % per_vector == 0 &&
         reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
}

}  // namespace troupe::gpu::cuda
