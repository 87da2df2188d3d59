#include "model/plan/hash.hpp"

#define XXH_INLINE_ALL
#ifndef NDEBUG
#define XXH_NO_INLINE_HINTS 1  // GCC refuses to force its functions inline at -Og
#endif
#include <xxhash.h>

#include <new>

namespace troupe::plan {
namespace {

XXH3_state_t* state_of(std::byte* memory) {
  return std::launder(reinterpret_cast<XXH3_state_t*>(memory));
}

}  // namespace

hash_stream::hash_stream(uint64_t key) {
  static_assert(sizeof(XXH3_state_t) <= state_bytes && alignof(XXH3_state_t) <= 64);
  XXH3_128bits_reset_withSeed(new (state_) XXH3_state_t, key);
}

void hash_stream::add(std::span<const std::byte> bytes) {
  XXH3_128bits_update(state_of(state_), bytes.data(), bytes.size());
}

digest hash_stream::finish() const {
  const auto hash = XXH3_128bits_digest(state_of(const_cast<std::byte*>(state_)));
  return {.low = hash.low64, .high = hash.high64};
}

}  // namespace troupe::plan
