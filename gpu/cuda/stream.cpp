#include "gpu/cuda/stream.hpp"

#include "gpu/cuda/status.hpp"

namespace troupe::gpu::cuda {

stream::stream(bool background) {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "cudaDeviceGetStreamPriorityRange");
  check(cudaStreamCreateWithPriority(&handle_, cudaStreamNonBlocking,
                                     background ? lowest : highest),
        "cudaStreamCreateWithPriority");
}

stream::~stream() { cudaStreamDestroy(handle_); }

}  // namespace troupe::gpu::cuda
