#include "gpu/cpu/weight_memory.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::gpu::cpu {
namespace {

constexpr int64_t alignment_bytes = 64;
constexpr int64_t first_slab_bytes = int64_t{1} << 20;
// Bounds what the last arena can leave unused.
constexpr int64_t slab_bytes_max = int64_t{256} << 20;

}  // namespace

std::byte* weight_memory::take(int64_t bytes) {
  const int64_t rounded = (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
  if (rounded > left_bytes_) {
    slab_bytes_ = std::clamp(2 * slab_bytes_, first_slab_bytes, slab_bytes_max);
    const int64_t size = std::max(slab_bytes_, rounded);
    arena slab(fmt::format("packed_weights.{}", slabs_.size()), memory_kind::host);
    slab.reserve("packed_weights", dtype::u8, {size});
    slab.seal();
    next_ = slab.base();
    left_bytes_ = size;
    slabs_.push_back(std::move(slab));
  }
  std::byte* taken = next_;
  next_ += rounded;
  left_bytes_ -= rounded;
  return taken;
}

std::vector<arena_lease> weight_memory::leases() const {
  std::vector<arena_lease> leases;
  for (const arena& slab : slabs_) leases.push_back(slab.lease());
  return leases;
}

}  // namespace troupe::gpu::cpu
