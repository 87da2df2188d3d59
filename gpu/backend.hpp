#pragma once

#include "gpu/operations.hpp"

#include <functional>
#include <memory>

namespace troupe::gpu {

enum class device_kind : uint8_t { cpu, cuda };

/// Which backend a rank or a vision tower runs on, and its share of the machine.
struct backend_options {
  device_kind device = device_kind::cpu;
  int32_t num_threads = 1;      // cpu: of this rank's team
  int32_t cuda_device = 0;      // cuda: its number
  int32_t ranks_on_device = 1;  // cuda: ranks of the group that share it (tests)
  bool background = false;      // cuda: must not delay others on the device
};

/// What memory that several ranks or actors see must be.
memory_kind shared_memory_on(device_kind device);

/// Makes the device of `options` the one that this thread's arenas lie on. Throws gpu::error.
void use_device(const backend_options& options);

/// FLOP per second that large products inside a network may be expected to reach in bf16. Follows from the
/// kind of the machine alone, so that what is decided by it is the same at every start. Throws gpu::error.
double expected_flop_rate(const backend_options& options);

/// A backend for the calling thread, after `use_device`. Throws gpu::error.
std::unique_ptr<operations> make_operations(const backend_options& options);

/// Makes a backend for the calling thread, as `make_operations` does.
using backend_factory = std::function<std::unique_ptr<operations>(const backend_options&)>;

struct cpu_options {
  int32_t num_threads = 1;  // of this rank's team; the thread that calls the operations included
};

/// The CPU backend: oneDNN and a kernel for few rows for `linear`, vectorised loops for the rest. Must be
/// made and used on one long-lived thread (its OpenMP team belongs to that thread).
///
/// A row of any result is the same bits whatever other rows, sequences or pictures the step holds and
/// whichever bucket runs it, `linear` included (gpu/cpu/matmul.hpp says how). Throws gpu::error.
std::unique_ptr<operations> make_cpu_operations(const cpu_options& options);

/// Bytes that the CPU backend keeps of a weight [out_features, in_features] prepared for activations of
/// `type`: it is packed in whole tiles. Throws gpu::error.
int64_t cpu_weight_bytes(dtype type, int64_t in_features, int64_t out_features);

}  // namespace troupe::gpu
