#include "support/device_fault.hpp"

#include <cuda_runtime.h>

#include <cstdint>

namespace troupe::testing {
namespace {

__global__ void store_to(uintptr_t address) {
  *reinterpret_cast<volatile int*>(address) = 1;
}

}  // namespace

void provoke_device_fault() {
  constexpr uintptr_t nobodys = 1 << 20;
  store_to<<<1, 1, 0, cudaStreamPerThread>>>(nobodys);
  cudaStreamSynchronize(cudaStreamPerThread);
}

}  // namespace troupe::testing
