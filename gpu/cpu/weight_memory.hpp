#pragma once

#include "gpu/arena.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe::gpu::cpu {

/// Memory of packed weights: sealed arenas, so that graphs bake weights like any other tensor. How
/// many weights come is not known when the first is packed: large ones have an arena of their own,
/// small ones share slabs of one size. So little more is taken than what is used.
class weight_memory {
 public:
  /// 64-byte aligned, zeroed, at a fixed address for the life of this object. `name` is the
  /// ledger's. Throws gpu::error.
  std::byte* take(const std::string& name, int64_t bytes);

  std::vector<arena_lease> leases() const;
  /// What was taken, by name, and what slabs have left unused.
  std::vector<ledger_entry> ledger() const;

 private:
  std::byte* map(int64_t bytes);

  std::vector<arena> arenas_;
  std::vector<ledger_entry> taken_;
  std::byte* next_ = nullptr;  // in the newest slab
  int64_t left_bytes_ = 0;
  int64_t unused_bytes_ = 0;  // of the slabs before it
};

}  // namespace troupe::gpu::cpu
