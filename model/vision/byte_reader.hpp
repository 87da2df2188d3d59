#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

namespace troupe::model {

/// An unsigned integer of `size` bytes (1 to 4) at `offset`, or nothing if it reaches past the end.
inline std::optional<uint32_t> read_unsigned(std::string_view bytes, size_t offset, size_t size,
                                             std::endian order) {
  if (offset > bytes.size() || size > bytes.size() - offset) return std::nullopt;
  uint32_t value = 0;
  for (size_t i = 0; i < size; ++i) {
    const size_t at = order == std::endian::big ? i : size - 1 - i;
    value = value << 8 | static_cast<uint8_t>(bytes[offset + at]);
  }
  return value;
}

/// The part of `bytes` from `offset` on, at most `size` long; empty past the end.
inline std::string_view part_of(std::string_view bytes, size_t offset,
                                size_t size = std::string_view::npos) {
  return offset > bytes.size() ? std::string_view{} : bytes.substr(offset, size);
}

}  // namespace troupe::model
