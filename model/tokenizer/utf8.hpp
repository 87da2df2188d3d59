#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::model {

/// The first character of a byte sequence.
///
/// An invalid sequence is read as Unicode advises (the maximal subpart of a character, U+FFFD for
/// each), the way Rust and the web platform do.
struct utf8_character {
  int32_t code_point = 0;  // U+FFFD if not valid
  size_t size = 0;         // bytes taken, at least 1
  bool valid = true;
  bool cut = false;  // not valid only because `bytes` ends too early
};

inline constexpr int32_t replacement_character = 0xFFFD;

/// Reads the character at the start of `bytes`, which must not be empty.
utf8_character read_utf8(std::string_view bytes);

/// Appends the UTF-8 form of a Unicode scalar value.
void append_utf8(std::string& out, int32_t code_point);

/// Appends `bytes` with U+FFFD for each maximal part that is not UTF-8.
void append_valid_utf8(std::string& out, std::string_view bytes);

/// Length of the longest prefix of `bytes` that is valid UTF-8.
size_t valid_utf8_prefix(std::string_view bytes);

/// Length of the last part of `bytes` if more bytes could make it a character, else 0. At most 3.
size_t cut_utf8_suffix(std::string_view bytes);

/// Length of the longest prefix of `bytes` that is ASCII.
size_t ascii_prefix(std::string_view bytes);

}  // namespace troupe::model
