#include "gpu/cuda/status.hpp"

#include <fmt/format.h>

namespace troupe::gpu::cuda {
namespace {

/// Errors after which every later call on the context fails as well.
bool sticky(cudaError_t status) {
  switch (status) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorAssert:
    case cudaErrorECCUncorrectable:
      return true;
    default:
      return false;
  }
}

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  auto message = fmt::format("{} failed: {} ({})", what, cudaGetErrorString(status),
                             cudaGetErrorName(status));
  if (sticky(status)) throw device_lost(message + "; the CUDA context is lost");
  throw error(message);
}

void check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS)
    throw error(fmt::format("{} failed: {}", what, cublasLtGetStatusString(status)));
}

}  // namespace troupe::gpu::cuda
