#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

namespace troupe::gpu::cuda {

/// Reads `bytes` (a multiple of 16) from memory once and does nothing with them: the fastest that data can
/// come. Writes one word to `sink`, so that the reads count.
void launch_read_stream(const void* data, int64_t bytes, uint32_t* sink, const launch_context& on);

/// Fills a matrix (f32 or bf16) with values in [-1, 1) that differ from each other.
void fill_random(const tensor_view& matrix, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
