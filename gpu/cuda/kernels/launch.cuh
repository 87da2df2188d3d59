#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/cuda/status.hpp"

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>

/// How kernels follow each other. Every kernel of a chain starts while its predecessor still runs
/// (programmatic dependent launch), so every kernel
///   1. calls `release_successor` first: the next kernel may take free SMs and fetch its weights;
///   2. calls `wait_for_predecessor` in every thread before it reads or writes anything that an earlier
///      kernel of the stream touches (all predecessors are complete and visible then, transitively).
/// Before the wait only memory that no kernel writes may be touched: weights, tables.
namespace troupe::gpu::cuda {

__device__ __forceinline__ void release_successor() {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

__device__ __forceinline__ void wait_for_predecessor() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

/// Launches `kernel` on `on.stream`. Throws gpu::error naming `name`.
template <class... Parameters, class... Arguments>
void launch_kernel(const char* name, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                   uint32_t shared_bytes, const launch_context& on, Arguments&&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = on.stream;
  config.attrs = &attribute;
  config.numAttrs = on.programmatic ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...),
        name);
}

/// Lets `kernel` use more than 48 KiB of dynamic shared memory. Call it before every launch that needs
/// it, or once when the kernel is prepared: it costs little and is allowed during a capture.
template <class Kernel>
void allow_shared_memory(const char* name, Kernel* kernel, uint32_t shared_bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes)),
        name);
}

}  // namespace troupe::gpu::cuda
