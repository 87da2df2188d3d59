#include "gpu/cuda/driver.hpp"

#include "gpu/cuda/status.hpp"

#include <fmt/format.h>

namespace troupe::gpu::cuda {
namespace {

constexpr unsigned version = 12000;  // of the calls' signatures

template <class Call>
void find(Call& call, const char* name) {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(cudaGetDriverEntryPointByVersion(name, &address, version, cudaEnableDefault, &found), name);
  if (found != cudaDriverEntryPointSuccess || address == nullptr)
    throw error(fmt::format("the CUDA driver has no {}", name));
  call = reinterpret_cast<Call>(address);
}

driver_calls find_all() {
  driver_calls calls;
  find(calls.create, "cuMemCreate");
  find(calls.release, "cuMemRelease");
  find(calls.export_handle, "cuMemExportToShareableHandle");
  find(calls.import_handle, "cuMemImportFromShareableHandle");
  find(calls.address_reserve, "cuMemAddressReserve");
  find(calls.address_free, "cuMemAddressFree");
  find(calls.map, "cuMemMap");
  find(calls.unmap, "cuMemUnmap");
  find(calls.set_access, "cuMemSetAccess");
  return calls;
}

}  // namespace

const driver_calls& driver() {
  static const driver_calls calls = find_all();
  return calls;
}

void check(CUresult status, const char* what) {
  if (status == CUDA_SUCCESS) return;
  if (status == CUDA_ERROR_OUT_OF_MEMORY)
    throw error(fmt::format("{} failed: out of device memory", what));
  throw error(fmt::format("{} failed with driver status {}", what, static_cast<int>(status)));
}

}  // namespace troupe::gpu::cuda
