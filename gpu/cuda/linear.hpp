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

/// The library's working memory: what the vendor advises for this architecture.
inline constexpr int64_t workspace_bytes = int64_t{32} << 20;

/// What becomes of a product before it is rounded and stored.
enum class product_epilogue : uint8_t { none, gelu_tanh, accumulate };

/// output = epilogue(input * weight^T + bias); `accumulate` adds to what the output holds.
struct library_product {
  tensor_view output, input, weight;
  tensor_view bias = {};  // rank 0: none
  product_epilogue epilogue = product_epilogue::none;
};

/// Products by cuBLASLt. The algorithm of each shape is chosen by timing the library's candidates the
/// first time the shape is met, which must be outside of a capture (a graph's warm-up run); from then on
/// it is fixed for all backends of the process.
class library_linear {
 public:
  explicit library_linear(cudaStream_t stream);
  ~library_linear();
  library_linear(const library_linear&) = delete;
  library_linear& operator=(const library_linear&) = delete;

  /// Chooses an algorithm unless that is done. `capturing`: a shape that was not met before is a broken
  /// invariant.
  void run(const library_product& work, bool capturing);

  /// The library's working memory, for manifests.
  arena_lease workspace() const { return workspace_.lease(); }
  const arena& memory() const { return workspace_; }

  /// Everything that the choice may depend on: rows, in, out, strides, types, bias, epilogue.
  using shape_key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, dtype, dtype,
                               bool, product_epilogue>;

 private:
  class prepared;  // descriptors and algorithm of one shape

  prepared& find(const library_product& work, bool capturing);
  cublasLtMatmulAlgo_t fastest(const prepared& shape, const library_product& work) const;

  cudaStream_t stream_;
  cublasLtHandle_t handle_ = nullptr;
  arena workspace_;
  tensor_view workspace_view_;
  std::map<shape_key, std::unique_ptr<prepared>> prepared_;
};

}  // namespace troupe::gpu::cuda
