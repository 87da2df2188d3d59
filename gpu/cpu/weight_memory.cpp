#include "gpu/cpu/weight_memory.hpp"

#include <fmt/format.h>

namespace troupe::gpu::cpu {
namespace {

constexpr int64_t alignment_bytes = 64;
constexpr int64_t slab_bytes = int64_t{256} << 10;
// What has an arena of its own wastes less than a page.
constexpr int64_t shared_bytes_max = slab_bytes / 8;

constexpr int64_t round_up(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

}  // namespace

std::byte* weight_memory::map(int64_t bytes) {
  arena mapped(fmt::format("packed_weights.{}", arenas_.size()), memory_kind::host);
  mapped.reserve("packed_weights", dtype::u8, {bytes});
  mapped.seal();
  arenas_.push_back(std::move(mapped));
  return arenas_.back().base();
}

std::byte* weight_memory::take(const std::string& name, int64_t bytes) {
  const int64_t rounded = round_up(bytes, alignment_bytes);
  if (rounded > shared_bytes_max) {
    std::byte* whole = map(bytes);
    taken_.push_back({"packed_weights/" + name, 0, bytes});
    return whole;
  }
  if (rounded > left_bytes_) {
    next_ = map(slab_bytes);
    unused_bytes_ += left_bytes_;
    left_bytes_ = slab_bytes;
  }
  taken_.push_back({"packed_weights/" + name, slab_bytes - left_bytes_, rounded});
  std::byte* part = next_;
  next_ += rounded;
  left_bytes_ -= rounded;
  return part;
}

std::vector<arena_lease> weight_memory::leases() const {
  std::vector<arena_lease> leases;
  for (const arena& mapped : arenas_) leases.push_back(mapped.lease());
  return leases;
}

std::vector<ledger_entry> weight_memory::ledger() const {
  std::vector<ledger_entry> ledger = taken_;
  if (unused_bytes_ + left_bytes_ > 0)
    ledger.push_back({"packed_weights/unused", 0, unused_bytes_ + left_bytes_});
  return ledger;
}

}  // namespace troupe::gpu::cpu
