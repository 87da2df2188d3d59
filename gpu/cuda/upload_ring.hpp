#pragma once

#include "gpu/host_matrix.hpp"
#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <memory>

namespace troupe::gpu::cuda {

/// Loads weights while the caller goes on: several threads copy pieces of them (out of mapped
/// files, say) into pinned buffers, from which the copy engine takes them. What is stored
/// input-major is turned round on the device. Threads, buffers and streams exist only while there
/// is something to load.
///
///   files     | q_proj | k_proj | ... |          pieces, in order
///                  │        │
///   threads     fetch, gather rows               one piece each
///                  ▼        ▼
///   pinned    | a | b |  | a | b |  ...          one is sent while the other is filled
///                  │        │
///   device       copy     copy, then transpose
class upload_ring {
 public:
  upload_ring();
  ~upload_ring();
  upload_ring(const upload_ring&) = delete;
  upload_ring& operator=(const upload_ring&) = delete;

  /// Puts `source` together at `target` (dense, on the calling thread's current device). Returns at
  /// once, unless much is waiting already or the source is the caller's memory. The bytes are there
  /// after `synchronize`.
  void copy(std::byte* target, const host_matrix& source);
  /// Throws the first failure of a copy, of the device or of a source; the others are dropped then.
  void synchronize();

 private:
  class session;
  std::unique_ptr<session> session_;
};

}  // namespace troupe::gpu::cuda
