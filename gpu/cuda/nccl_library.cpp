#include "gpu/cuda/nccl_library.hpp"

#include "gpu/error.hpp"

#include <dlfcn.h>
#include <fmt/format.h>

#include <cstdlib>
#include <optional>

namespace troupe::gpu::cuda {
namespace {

template <class Call>
bool find(void* library, Call& call, const char* name) {
  call = reinterpret_cast<Call>(dlsym(library, name));
  return call != nullptr;
}

void* open_library() {
  for (const char* name : {"libnccl.so.2", TROUPE_NCCL_LIBRARY})
    if (void* library = dlopen(name, RTLD_NOW); library != nullptr) return library;
  return nullptr;
}

std::optional<nccl_calls> load() {
  // Read when the library first needs it. Multicast objects outlive processes that are killed.
  setenv("NCCL_NVLS_ENABLE", "0", 1);
  void* library = open_library();
  if (library == nullptr) return std::nullopt;
  nccl_calls calls;
  find(library, calls.allocate, "ncclMemAlloc");
  find(library, calls.free, "ncclMemFree");
  find(library, calls.register_window, "ncclCommWindowRegister");
  find(library, calls.deregister_window, "ncclCommWindowDeregister");
  const bool complete = find(library, calls.get_version, "ncclGetVersion") &&
                        find(library, calls.error_string, "ncclGetErrorString") &&
                        find(library, calls.make_id, "ncclGetUniqueId") &&
                        find(library, calls.join, "ncclCommInitRankConfig") &&
                        find(library, calls.async_error, "ncclCommGetAsyncError") &&
                        find(library, calls.abort, "ncclCommAbort") &&
                        find(library, calls.all_reduce, "ncclAllReduce");
  if (!complete) return std::nullopt;
  return calls;
}

}  // namespace

const nccl_calls* find_nccl() {
  static const std::optional<nccl_calls> calls = load();
  return calls ? &*calls : nullptr;
}

const nccl_calls& nccl() {
  const nccl_calls* calls = find_nccl();
  if (calls == nullptr) throw error("no usable libnccl.so.2 was found on this machine");
  return *calls;
}

void check(ncclResult_t status, const char* what) {
  if (status != ncclSuccess)
    throw error(fmt::format("{} failed: {}", what, nccl().error_string(status)));
}

}  // namespace troupe::gpu::cuda
