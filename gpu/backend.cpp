#include "gpu/backend.hpp"

#include "gpu/cuda_backend.hpp"

namespace troupe::gpu {
namespace {

// Of one core, by what servers' cores were seen to do.
constexpr double cpu_flops_per_thread = 30e9;
// Of what the data sheet says: what the vision tower reaches on an H100, attention and norms included.
constexpr double share_of_cuda_peak = 1.0 / 3;

}  // namespace

memory_kind shared_memory_on(device_kind device) {
  return device == device_kind::cuda ? memory_kind::device_shared : memory_kind::host_shared;
}

void use_device(const backend_options& options) {
  if (options.device == device_kind::cuda) use_cuda_device(options.cuda_device);
}

double expected_flop_rate(const backend_options& options) {
  if (options.device == device_kind::cpu) return options.num_threads * cpu_flops_per_thread;
  return share_of_cuda_peak * peak_cuda_flop_rate(options.cuda_device);
}

std::unique_ptr<operations> make_operations(const backend_options& options) {
  use_device(options);
  if (options.device == device_kind::cpu) return make_cpu_operations({options.num_threads});
  return make_cuda_operations(
      {options.cuda_device, options.ranks_on_device, options.background});
}

}  // namespace troupe::gpu
