#include "gpu/cuda/scratch.hpp"

#include "config/ensure.hpp"

namespace troupe::gpu::cuda {

std::byte* scratch::take(int64_t bytes, bool may_grow) {
  const bool enough = !arenas_.empty() && arenas_.back().bytes() >= bytes;
  if (!enough) {
    config::ensure(may_grow, "{} of {} bytes is met first inside a capture", name_, bytes);
    arena larger(name_, memory_kind::device);
    larger.reserve(name_, dtype::u8, {bytes});
    larger.seal();
    arenas_.push_back(std::move(larger));
  }
  return arenas_.back().base();
}

}  // namespace troupe::gpu::cuda
