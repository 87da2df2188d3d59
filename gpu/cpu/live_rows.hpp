#pragma once

#include "gpu/operations.hpp"

#include <algorithm>
#include <cstdint>

namespace troupe::gpu::cpu {

/// The live rows, read now; never more than the view's capacity.
inline int64_t live_rows(live_count count, int64_t capacity) {
  return std::clamp<int64_t>(*count.value, 0, capacity);
}

}  // namespace troupe::gpu::cpu
