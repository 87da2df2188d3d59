#include "gpu/cuda_backend.hpp"
#include "gpu/error.hpp"

#include <cupti.h>
#include <cxxabi.h>
#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>

namespace troupe::gpu {
namespace {

/// The library that records activities, found at run time: only a profile needs it.
struct recorder_library {
  decltype(&cuptiActivityRegisterCallbacks) register_callbacks = nullptr;
  decltype(&cuptiActivityEnable) enable = nullptr;
  decltype(&cuptiActivityDisable) disable = nullptr;
  decltype(&cuptiActivityFlushAll) flush = nullptr;
  decltype(&cuptiActivityGetNextRecord) next_record = nullptr;
};

template <class Call>
void find(void* library, Call& call, const char* name) {
  call = reinterpret_cast<Call>(dlsym(library, name));
  if (call == nullptr) throw error(std::string("libcupti has no ") + name);
}

const recorder_library& library() {
  static const recorder_library found = [] {
    void* handle = dlopen("libcupti.so.13", RTLD_NOW);
    if (handle == nullptr) handle = dlopen("/usr/local/cuda/lib64/libcupti.so.13", RTLD_NOW);
    if (handle == nullptr)
      throw error(std::string("a profile needs the CUDA toolkit's libcupti: ") + dlerror());
    recorder_library calls;
    find(handle, calls.register_callbacks, "cuptiActivityRegisterCallbacks");
    find(handle, calls.enable, "cuptiActivityEnable");
    find(handle, calls.disable, "cuptiActivityDisable");
    find(handle, calls.flush, "cuptiActivityFlushAll");
    find(handle, calls.next_record, "cuptiActivityGetNextRecord");
    return calls;
  }();
  return found;
}

void check(CUptiResult status, const char* what) {
  if (status != CUPTI_SUCCESS)
    throw error(std::string(what) + " failed with status " + std::to_string(status));
}

/// What the callbacks, which take no context, fill.
struct recording {
  std::mutex mutex;
  std::vector<kernel_run> kernels;
};
recording& now_recording() {
  static recording only;
  return only;
}

constexpr size_t buffer_bytes = size_t{8} << 20;
constexpr size_t buffer_alignment = 8;

std::string readable(const char* mangled) {
  int status = 0;
  char* name = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
  const std::string result = status == 0 ? name : mangled;
  std::free(name);
  return result;
}

void CUPTIAPI give_buffer(uint8_t** buffer, size_t* size, size_t* max_records) {
  *buffer = static_cast<uint8_t*>(std::aligned_alloc(buffer_alignment, buffer_bytes));
  *size = *buffer == nullptr ? 0 : buffer_bytes;
  *max_records = 0;
}

void CUPTIAPI take_buffer(CUcontext, uint32_t, uint8_t* buffer, size_t, size_t valid) {
  auto& target = now_recording();
  const std::lock_guard lock(target.mutex);
  CUpti_Activity* record = nullptr;
  while (valid > 0 && library().next_record(buffer, valid, &record) == CUPTI_SUCCESS) {
    if (record->kind != CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL) continue;
    const auto* kernel = reinterpret_cast<const CUpti_ActivityKernel10*>(record);
    target.kernels.push_back({readable(kernel->name), static_cast<int32_t>(kernel->deviceId),
                              static_cast<int64_t>(kernel->start),
                              static_cast<int64_t>(kernel->end)});
  }
  std::free(buffer);
}

}  // namespace

std::vector<kernel_run> record_cuda_kernels(const std::function<void()>& run) {
  const auto& calls = library();
  check(calls.register_callbacks(give_buffer, take_buffer), "cuptiActivityRegisterCallbacks");
  check(calls.enable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "cuptiActivityEnable");
  now_recording().kernels.clear();
  run();
  check(calls.flush(CUPTI_ACTIVITY_FLAG_FLUSH_FORCED), "cuptiActivityFlushAll");
  check(calls.disable(CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL), "cuptiActivityDisable");
  auto kernels = std::move(now_recording().kernels);
  std::sort(kernels.begin(), kernels.end(),
            [](const auto& a, const auto& b) { return a.begin_ns < b.begin_ns; });
  return kernels;
}

}  // namespace troupe::gpu
