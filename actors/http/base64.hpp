#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

namespace troupe::http {

/// Decoded bytes, or the place of the first character that does not belong.
struct base64_result {
  std::string bytes;
  std::optional<size_t> fault_offset;  // equals the length of the text if it ends too early
};

/// Decodes the standard alphabet strictly: whole groups of four, padding only at the end, unused
/// bits zero, no white space. Source: RFC 4648, sections 3 and 4.
base64_result decode_base64(std::string_view text);

/// Bytes that `length` characters decode to, at most.
constexpr size_t base64_decoded_bytes_max(size_t length) {
  return length / 4 * 3;
}

}  // namespace troupe::http
