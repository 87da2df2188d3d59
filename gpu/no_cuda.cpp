#include "gpu/cuda_backend.hpp"
#include "gpu/error.hpp"
#include "gpu/pages.hpp"

#include <fmt/format.h>

/// What a build without CUDA answers.
namespace troupe::gpu {
namespace {

constexpr auto* missing = "this build has no CUDA (configure with -DTROUPE_CUDA=ON)";

}  // namespace

std::unique_ptr<pages> map_device_pages(const std::string& name, int64_t, memory_kind, int) {
  throw error(fmt::format("arena {}: device memory: {}", name, missing));
}

std::vector<cuda_device> cuda_devices() { return {}; }

int64_t free_cuda_bytes(int32_t) { throw error(missing); }

void use_cuda_device(int32_t) { throw error(missing); }

double measure_cuda_read_rate() { throw error(missing); }
double measure_cuda_link_rate(const std::byte*, int64_t) { throw error(missing); }
double measure_cuda_flag_round_trip(const lane_view&) { throw error(missing); }
double measure_cuda_copy_rate() { throw error(missing); }
double measure_cuda_matmul_rate(dtype) { throw error(missing); }
double peak_cuda_flop_rate(int32_t) { throw error(missing); }

std::vector<kernel_run> record_cuda_kernels(const std::function<void()>&) { throw error(missing); }

std::shared_ptr<void> show_to_cuda_devices(void*, int64_t) { throw error(missing); }

int64_t cuda_working_bytes(const working_shapes&) { throw error(missing); }

std::unique_ptr<operations> make_cuda_operations(const cuda_options&) { throw error(missing); }

}  // namespace troupe::gpu
