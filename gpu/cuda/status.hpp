#pragma once

#include "gpu/error.hpp"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

namespace troupe::gpu::cuda {

/// Throws gpu::error naming `what` and CUDA's reason; gpu::device_lost if the context is beyond repair.
void check(cudaError_t status, const char* what);
void check(cublasStatus_t status, const char* what);

}  // namespace troupe::gpu::cuda
