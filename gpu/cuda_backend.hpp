#pragma once

#include "gpu/operations.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace troupe::gpu {

struct cuda_device {
  std::string name;
};

struct cuda_options {
  int32_t device = 0;
  /// How many ranks run on this device at once (tests of several ranks on one GPU). With more than one,
  /// kernels that wait for a peer take only their share of the multiprocessors, and no kernel starts
  /// behind one that waits.
  int32_t ranks_on_device = 1;
  /// Runs at a lower priority than others: for work that must not delay decode steps.
  bool background = false;
};

/// The CUDA devices of this machine, in the order of their numbers; none without a driver, or in a
/// build without CUDA. Creates no context.
std::vector<cuda_device> cuda_devices();

/// Bytes that `device` could give right now. Creates a context on it. Throws gpu::error.
int64_t free_cuda_bytes(int32_t device);

/// Makes `device` the one that this thread's arenas and operations use. Throws gpu::error.
void use_cuda_device(int32_t device);

/// What the current device can do, measured now: bytes per second that a kernel reads from memory and that
/// are copied to it from pinned memory, FLOP per second of a large cuBLASLt product of operands of `type`.
/// Throw gpu::error.
double measure_cuda_read_rate();
double measure_cuda_copy_rate();
double measure_cuda_matmul_rate(dtype type);

/// Bytes per second that the current device reads of `bytes` at `peer`, another rank's memory, and seconds
/// that a flag takes from rank 0 of `lane` to rank 1 and back. All ranks (for the flag these two) measure at
/// once; the lane is used for nothing else, before or after. Throw gpu::error.
double measure_cuda_link_rate(const std::byte* peer, int64_t bytes);
double measure_cuda_flag_round_trip(const lane_view& lane);
/// FLOP per second of dense bf16 products by the data sheet of `device`, from its architecture,
/// multiprocessors and clock. Throws gpu::error.
double peak_cuda_flop_rate(int32_t device);

/// One kernel that ran, in the device's clock.
struct kernel_run {
  std::string name;
  int32_t device = 0;
  int64_t begin_ns = 0;
  int64_t end_ns = 0;
};

/// The kernels of all streams that start while `run` runs (which must wait for them), those inside graphs
/// too, in the order of their start. Needs the toolkit's CUPTI library. Throws gpu::error.
std::vector<kernel_run> record_cuda_kernels(const std::function<void()>& run);

/// Lets kernels read and write host memory (whole pages) at its host address, while the returned handle
/// lives. Throws gpu::error.
std::shared_ptr<void> show_to_cuda_devices(void* memory, int64_t bytes);

/// The largest shapes that decide how much working memory a backend needs; zero where it runs none of it.
struct working_shapes {
  dtype activation = dtype::bf16;
  int64_t rows = 0;  // of a step
  // Paged attention.
  int32_t num_q_heads = 0, num_kv_heads = 0, head_dim = 0, max_sequences = 0;
  // Mixtures of experts.
  int32_t num_experts = 0, experts_per_row = 0;
  int64_t hidden_size = 0, expert_width = 0;
};

/// Bytes that the CUDA backend keeps beside weights for steps of these shapes. Throws gpu::error.
int64_t cuda_working_bytes(const working_shapes& shapes);

/// The CUDA backend: cuBLASLt and own kernels for `linear`, own kernels for the rest, on one stream.
/// Must be made and used on one thread. Results are deterministic: the same operation on the same inputs
/// in the same bucket gives the same bits, eagerly or by replay; `linear` may differ in the last bits
/// between buckets. Throws gpu::error; gpu::device_lost once the context can run nothing any more.
std::unique_ptr<operations> make_cuda_operations(const cuda_options& options);

}  // namespace troupe::gpu
