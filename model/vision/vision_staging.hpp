#pragma once

#include "gpu/arena.hpp"
#include "gpu/backend.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <memory>

namespace troupe::model {

/// Size of the memory that pixels wait in.
struct staging_shape {
  int32_t max_patches = 0;  // of one slot: what the tower runs at once
  int32_t patch_width = 0;
  gpu::dtype type = gpu::dtype::bf16;
};

/// Pixels on their way to the vision tower: slots in host memory that the node fills, one run of the
/// tower each, and that the tower's process reads. Fixed size; never resized.
///
///   node   | pictures of run n + 1, being filled | pictures of run n |
///                                                         │ upload, graph
///   tower                                                 ▼
class vision_staging {
 public:
  /// One slot is filled while the tower runs what is in the other.
  static constexpr int32_t num_slots = 2;

  explicit vision_staging(const staging_shape& shape);
  /// Maps staging memory made by another process or thread (the descriptor is duplicated), so that
  /// `reader` takes it at its full speed. Throw gpu::error.
  static vision_staging map(const staging_shape& shape, int file_descriptor, gpu::device_kind reader);
  ~vision_staging();
  vision_staging(vision_staging&&) noexcept;

  gpu::tensor_view slot(int32_t index) const;  // [max_patches, patch_width]
  int file_descriptor() const;

 private:
  struct state;
  explicit vision_staging(std::unique_ptr<state> made);
  std::unique_ptr<state> state_;
};

/// Bytes of all slots.
constexpr int64_t staging_bytes(const staging_shape& shape) {
  return vision_staging::num_slots * int64_t{shape.max_patches} * shape.patch_width *
         gpu::size_of(shape.type);
}

}  // namespace troupe::model
