#include "gpu/backend.hpp"

#include "gpu/cuda_backend.hpp"

namespace troupe::gpu {

memory_kind shared_memory_on(device_kind device) {
  return device == device_kind::cuda ? memory_kind::device_shared : memory_kind::host_shared;
}

void use_device(const backend_options& options) {
  if (options.device == device_kind::cuda) use_cuda_device(options.cuda_device);
}

std::unique_ptr<operations> make_operations(const backend_options& options) {
  use_device(options);
  if (options.device == device_kind::cpu) return make_cpu_operations({options.num_threads});
  return make_cuda_operations(
      {options.cuda_device, options.ranks_on_device, options.background});
}

}  // namespace troupe::gpu
