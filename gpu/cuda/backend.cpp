#include "gpu/cuda/cuda_operations.hpp"
#include "gpu/cuda/kernels/attention_paged.hpp"
#include "gpu/cuda/kernels/experts.hpp"
#include "gpu/cuda/linear.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/cuda_backend.hpp"

#include <fmt/format.h>

#include <cstdlib>

namespace troupe::gpu {
namespace {

/// Streams share hardware queues, eight by default, and a kernel that waits for a peer would then block the
/// peer's own behind it where ranks share a device. Read by CUDA when it starts.
void ask_for_hardware_queues() {
  static const int done = setenv("CUDA_DEVICE_MAX_CONNECTIONS", "32", 0);
  static_cast<void>(done);
}

int attribute(cudaDeviceAttr wanted, int32_t device) {
  int value = 0;
  cuda::check(cudaDeviceGetAttribute(&value, wanted, device), "cudaDeviceGetAttribute");
  return value;
}

/// FLOP of dense bf16 products that a multiprocessor does in a clock. Source: NVIDIA's architecture papers.
double tensor_flops_per_clock(int major, int minor) {
  if (major == 8 && minor == 0) return 2048;
  if (major == 9) return 4096;
  if (major == 10 || major == 11) return 8192;
  return 1024;  // of graphics cards
}

}  // namespace

std::vector<cuda_device> cuda_devices() {
  ask_for_hardware_queues();
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess) {
    cudaGetLastError();  // no driver: not an error of a later call
    return {};
  }
  std::vector<cuda_device> devices;
  for (int index = 0; index < count; ++index) {
    cudaDeviceProp properties{};
    cuda::check(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    cuda_device device;
    device.name = properties.name;
    devices.push_back(std::move(device));
  }
  return devices;
}

void use_cuda_device(int32_t device) {
  const auto devices = cuda_devices();
  if (device < 0 || device >= static_cast<int32_t>(devices.size()))
    throw error(fmt::format("CUDA device {}, this machine has {}", device, devices.size()));
  cuda::check(cudaSetDevice(device), "cudaSetDevice");
}

int64_t free_cuda_bytes(int32_t device) {
  use_cuda_device(device);
  size_t free_bytes = 0, total_bytes = 0;
  cuda::check(cudaMemGetInfo(&free_bytes, &total_bytes), "cudaMemGetInfo");
  return static_cast<int64_t>(free_bytes);
}

double peak_cuda_flop_rate(int32_t device) {
  const double clocks_per_second = 1e3 * attribute(cudaDevAttrClockRate, device);
  return tensor_flops_per_clock(attribute(cudaDevAttrComputeCapabilityMajor, device),
                                attribute(cudaDevAttrComputeCapabilityMinor, device)) *
         attribute(cudaDevAttrMultiProcessorCount, device) * clocks_per_second;
}

std::shared_ptr<void> show_to_cuda_devices(void* memory, int64_t bytes) {
  cuda::check(cudaHostRegister(memory, static_cast<size_t>(bytes),
                               cudaHostRegisterMapped | cudaHostRegisterPortable),
              "cudaHostRegister");
  return {memory, [](void* shown) { cudaHostUnregister(shown); }};
}

int64_t cuda_working_bytes(const working_shapes& shapes) {
  int64_t bytes = cuda::workspace_bytes;
  if (shapes.num_q_heads > 0)
    bytes += cuda::paged_attention_scratch_bytes(shapes.num_q_heads, shapes.num_kv_heads,
                                                 shapes.head_dim, shapes.max_sequences);
  if (shapes.num_experts > 0)
    bytes += cuda::mixture_of_experts_scratch_bytes({shapes.activation, shapes.rows,
                                                     shapes.hidden_size, shapes.expert_width,
                                                     shapes.num_experts, shapes.experts_per_row});
  return bytes;
}

std::unique_ptr<operations> make_cuda_operations(const cuda_options& options) {
  use_cuda_device(options.device);
  return std::make_unique<cuda::cuda_operations>(options);
}

}  // namespace troupe::gpu
