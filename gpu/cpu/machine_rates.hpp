#pragma once

#include "gpu/tensor_view.hpp"

#include <cstdint>

namespace troupe::gpu::cpu {

/// What this machine can do, measured now: the limits that benchmarks put their figures beside.

/// Bytes per second that `num_threads` threads read from memory together: the best of several
/// passes over a buffer far larger than the last-level cache.
double measure_read_rate(int32_t num_threads);

/// FLOP per second of a packed 2048 x 2048 x 2048 oneDNN matmul with operands of `type` (f32, or
/// bf16 where the processor can), accumulating in f32: the best of several runs on `num_threads`
/// threads.
double measure_matmul_rate(int32_t num_threads, dtype type);

}  // namespace troupe::gpu::cpu
