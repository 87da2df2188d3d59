#pragma once

#include "model/plan/step_plan.hpp"

#include <cstddef>
#include <cstdint>
#include <span>

namespace troupe::plan {

/// 128-bit hash of a stream of bytes; equal streams and keys give equal digests in every process of
/// the same byte order. Takes no memory from the heap. Source: XXH3, Yann Collet.
class hash_stream {
 public:
  explicit hash_stream(uint64_t key = 0);

  void add(std::span<const std::byte> bytes);
  template <class T>
  void add(std::span<const T> values) {
    add(std::as_bytes(values));
  }
  digest finish() const;

 private:
  static constexpr size_t state_bytes = 576;
  alignas(64) std::byte state_[state_bytes];
};

}  // namespace troupe::plan
