#pragma once

#include "gpu/arena.hpp"

#include <cstddef>
#include <cstdint>
#include <vector>

namespace troupe::gpu::cpu {

/// Memory of packed weights: sealed arenas, so that graphs bake weights like any other tensor.
/// Their number is not known when the first is packed, so arenas are added, each twice the size of
/// the last.
class weight_memory {
 public:
  /// 64-byte aligned, zeroed, at a fixed address for the life of this object. Throws gpu::error.
  std::byte* take(int64_t bytes);

  std::vector<arena_lease> leases() const;

 private:
  std::vector<arena> slabs_;
  std::byte* next_ = nullptr;
  int64_t left_bytes_ = 0;
  int64_t slab_bytes_ = 0;
};

}  // namespace troupe::gpu::cpu
