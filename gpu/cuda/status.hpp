#pragma once

#include "gpu/error.hpp"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <fmt/format.h>

namespace troupe::gpu::cuda {

/// A CUDA context that can run nothing any more (an illegal address, an aborted kernel): only the end of
/// its process heals it.
class device_lost : public error {
 public:
  using error::error;
};

/// Throws gpu::error naming `what` and CUDA's reason; device_lost if the context is beyond repair.
void check(cudaError_t status, const char* what);
void check(cublasStatus_t status, const char* what);

}  // namespace troupe::gpu::cuda
