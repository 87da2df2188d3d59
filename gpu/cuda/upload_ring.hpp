#pragma once

#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <memory>

namespace troupe::gpu::cuda {

/// Loads weights: several threads copy pieces (out of a mapped file, say) into pinned buffers, from
/// which the copy engine takes them, so that reading and sending overlap.
class upload_ring {
 public:
  /// On the calling thread's current device.
  upload_ring();
  ~upload_ring();
  upload_ring(const upload_ring&) = delete;
  upload_ring& operator=(const upload_ring&) = delete;

  /// Copies `source` (host; rows may have gaps) to `target` (device; dense). Returns when the source may
  /// be freed; the bytes are there after `synchronize`.
  void copy(std::byte* target, const tensor_view& source);
  void synchronize();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::gpu::cuda
