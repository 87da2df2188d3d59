#pragma once

#include "gpu/cuda/nccl_library.hpp"
#include "gpu/nccl.hpp"
#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace troupe::gpu::cuda {

/// One rank's end of a communicator, on the device that was current when it was made. Used from one
/// thread at a time. No call waits for another rank longer than the membership allows:
/// communicators are non-blocking, and their calls are settled here; `wait` bounds what is on a
/// stream.
class nccl_communicator {
 public:
  /// Joins. Throws gpu::error.
  explicit nccl_communicator(const nccl_membership& membership);
  /// Aborts what is under way: a lost peer must not hold it up.
  ~nccl_communicator() = default;

  /// output = sum of all ranks' input, in an order of the library's: equal on all ranks. Dense
  /// views of one shape, f32 or bf16; may be the same view. On `stream`, or into the graph it
  /// captures (not before it ran once without: the first call makes connections). Throws
  /// gpu::error.
  void all_reduce(const tensor_view& output, const tensor_view& input, cudaStream_t stream);

  /// Returns when all work on `stream` is done. If that takes longer than the membership allows, or
  /// another rank failed, aborts the communicator, so that its kernels end, and throws gpu::error;
  /// so does every later call.
  void wait(cudaStream_t stream);

  /// A window over memory of ncclMemAlloc, of the same bytes on every rank, which all make at
  /// once. Throws gpu::error, also if the devices share none.
  ncclWindow_t open_window(void* memory, size_t bytes);
  void close_window(ncclWindow_t window);

 private:
  struct abort_handle {
    void operator()(ncclComm* handle) const;
  };

  ncclComm* handle() const;
  /// Returns when `status`, of a call just made, is final. Throws gpu::error if that is a failure.
  void settle(ncclResult_t status, const char* what);

  std::chrono::milliseconds timeout_;
  std::unique_ptr<ncclComm, abort_handle> handle_;
};

}  // namespace troupe::gpu::cuda
