#pragma once

#include "gpu/arena.hpp"
#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cublasLt.h>

#include <cstdint>
#include <map>
#include <memory>
#include <tuple>

namespace troupe::gpu::cuda {

/// output = input * weight^T + bias by cuBLASLt. The algorithm of each shape is chosen by timing the
/// library's candidates the first time the shape is met, which must be outside of a capture (a graph's
/// warm-up run); from then on it is fixed for all backends of the process.
class library_linear {
 public:
  explicit library_linear(cudaStream_t stream);
  ~library_linear();
  library_linear(const library_linear&) = delete;
  library_linear& operator=(const library_linear&) = delete;

  /// Chooses an algorithm unless that is done. `capturing`: a shape that was not met before throws.
  void run(const tensor_view& output, const tensor_view& input, const tensor_view& weight,
           const tensor_view& bias, bool capturing);

  /// The library's working memory, for manifests.
  arena_lease workspace() const { return workspace_.lease(); }
  const arena& memory() const { return workspace_; }

  /// Everything that the choice may depend on: rows, in, out, strides, types, bias.
  using shape_key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, dtype, dtype, bool>;

 private:
  class product;  // descriptors and algorithm of one shape

  product& product_of(const shape_key& key, const tensor_view& output, const tensor_view& input,
                      const tensor_view& weight, const tensor_view& bias, bool capturing);

  cublasLtMatmulAlgo_t fastest(const product& made, const tensor_view& output,
                               const tensor_view& input, const tensor_view& weight) const;

  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  arena workspace_;
  tensor_view workspace_view_;
  std::map<shape_key, std::unique_ptr<product>> products_;
};

}  // namespace troupe::gpu::cuda
