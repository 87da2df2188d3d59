#pragma once

#include <nccl.h>

namespace troupe::gpu::cuda {

/// The calls of NCCL that are used, found at run time: the program must start on machines without
/// it. Those of the last group may be missing.
struct nccl_calls {
  decltype(&ncclGetVersion) get_version = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclGetUniqueId) make_id = nullptr;
  decltype(&ncclCommInitRankConfig) join = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclAllReduce) all_reduce = nullptr;

  decltype(&ncclMemAlloc) allocate = nullptr;
  decltype(&ncclMemFree) free = nullptr;
  decltype(&ncclCommWindowRegister) register_window = nullptr;
  decltype(&ncclCommWindowDeregister) deregister_window = nullptr;

  bool has_windows() const {
    return allocate != nullptr && free != nullptr && register_window != nullptr &&
           deregister_window != nullptr;
  }
};

/// Null if there is no such library, or one without the calls that must be there.
const nccl_calls* find_nccl();

/// Throws gpu::error if there is none.
const nccl_calls& nccl();

/// Throws gpu::error naming `what` and NCCL's reason.
void check(ncclResult_t status, const char* what);

}  // namespace troupe::gpu::cuda
