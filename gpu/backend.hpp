#pragma once

#include "gpu/operations.hpp"

#include <memory>

namespace troupe::gpu {

struct cpu_options {
  int32_t num_threads = 1;  // of this rank's team; the thread that calls the operations included
};

/// The CPU backend: oneDNN for `linear`, vectorised loops for the rest. Must be made and used on one
/// long-lived thread (its OpenMP team belongs to that thread).
///
/// A row of any result is the same bits whatever other rows, sequences or pictures the step holds and
/// whichever bucket runs it, `linear` included (gpu/cpu/matmul.hpp says how). Throws gpu::error.
std::unique_ptr<operations> make_cpu_operations(const cpu_options& options);

}  // namespace troupe::gpu
