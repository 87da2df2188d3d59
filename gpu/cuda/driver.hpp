#pragma once

#include <cuda.h>

namespace troupe::gpu::cuda {

/// The few calls of CUDA's driver that the runtime library does not offer (virtual memory), found at run
/// time: the program must start on machines without a driver.
struct driver_calls {
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  decltype(&cuMemAddressReserve) address_reserve = nullptr;
  decltype(&cuMemAddressFree) address_free = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
};

/// Throws gpu::error if the driver is missing or too old.
const driver_calls& driver();

/// Throws gpu::error naming `what` and the driver's reason.
void check(CUresult status, const char* what);

}  // namespace troupe::gpu::cuda
