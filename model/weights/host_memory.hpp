#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>

namespace troupe::model {

/// Uninitialised host memory that starts on a cache line.
inline std::shared_ptr<std::byte> allocate_host_bytes(int64_t bytes) {
  constexpr std::align_val_t cache_line{64};
  auto* memory = static_cast<std::byte*>(::operator new(static_cast<size_t>(bytes), cache_line));
  return {memory, [](std::byte* owned) { ::operator delete(owned, cache_line); }};
}

}  // namespace troupe::model
