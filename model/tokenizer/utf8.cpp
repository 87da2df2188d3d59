#include "model/tokenizer/utf8.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <cstring>

namespace troupe::model {
namespace {

/// What may follow a lead byte. Only the byte after the lead is restricted further than 80..BF:
/// that excludes overlong forms, surrogates and values above U+10FFFF. Source: Unicode, table 3-7.
struct lead_byte {
  uint8_t size;  // 0: can not start a character
  uint8_t bits;  // payload mask of the lead byte
  uint8_t second_min;
  uint8_t second_max;
};

lead_byte classify_lead(uint8_t byte) {
  if (byte < 0x80) return {1, 0x7F, 0, 0};
  if (byte < 0xC2) return {0, 0, 0, 0};
  if (byte < 0xE0) return {2, 0x1F, 0x80, 0xBF};
  if (byte == 0xE0) return {3, 0x0F, 0xA0, 0xBF};
  if (byte == 0xED) return {3, 0x0F, 0x80, 0x9F};
  if (byte < 0xF0) return {3, 0x0F, 0x80, 0xBF};
  if (byte == 0xF0) return {4, 0x07, 0x90, 0xBF};
  if (byte < 0xF4) return {4, 0x07, 0x80, 0xBF};
  if (byte == 0xF4) return {4, 0x07, 0x80, 0x8F};
  return {0, 0, 0, 0};
}

utf8_character invalid(size_t size, bool cut) {
  return {replacement_character, size, false, cut};
}

}  // namespace

utf8_character read_utf8(std::string_view bytes) {
  const auto at = [&](size_t index) { return static_cast<uint8_t>(bytes[index]); };
  const lead_byte lead = classify_lead(at(0));
  if (lead.size == 0) return invalid(1, false);
  int32_t code_point = at(0) & lead.bits;
  for (size_t i = 1; i < lead.size; ++i) {
    if (i == bytes.size()) return invalid(i, true);
    const uint8_t low = i == 1 ? lead.second_min : 0x80;
    const uint8_t high = i == 1 ? lead.second_max : 0xBF;
    if (at(i) < low || at(i) > high) return invalid(i, false);
    code_point = (code_point << 6) | (at(i) & 0x3F);
  }
  return {code_point, lead.size, true, false};
}

void append_utf8(std::string& out, int32_t code_point) {
  config::ensure(
      code_point >= 0 && code_point <= 0x10FFFF && (code_point < 0xD800 || code_point > 0xDFFF),
      "code point {:#x} is no Unicode scalar value", code_point);
  const auto trail = [&](int shift) {
    out.push_back(static_cast<char>(0x80 | ((code_point >> shift) & 0x3F)));
  };
  if (code_point < 0x80) {
    out.push_back(static_cast<char>(code_point));
  } else if (code_point < 0x800) {
    out.push_back(static_cast<char>(0xC0 | (code_point >> 6)));
    trail(0);
  } else if (code_point < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | (code_point >> 12)));
    trail(6);
    trail(0);
  } else {
    out.push_back(static_cast<char>(0xF0 | (code_point >> 18)));
    trail(12);
    trail(6);
    trail(0);
  }
}

size_t ascii_prefix(std::string_view bytes) {
  size_t size = 0;
  for (uint64_t word = 0; size + sizeof word <= bytes.size(); size += sizeof word) {
    std::memcpy(&word, bytes.data() + size, sizeof word);
    if ((word & 0x8080808080808080u) != 0) break;
  }
  while (size < bytes.size() && static_cast<uint8_t>(bytes[size]) < 0x80) ++size;
  return size;
}

size_t valid_utf8_prefix(std::string_view bytes) {
  size_t size = 0;
  while (size < bytes.size()) {
    size += ascii_prefix(bytes.substr(size));
    if (size == bytes.size()) break;
    const utf8_character next = read_utf8(bytes.substr(size));
    if (!next.valid) break;
    size += next.size;
  }
  return size;
}

size_t cut_utf8_suffix(std::string_view bytes) {
  constexpr size_t cut_bytes_max = 3;
  // Whether a byte can start a character does not depend on what is before it.
  for (size_t size = 1; size <= std::min(cut_bytes_max, bytes.size()); ++size) {
    const utf8_character last = read_utf8(bytes.substr(bytes.size() - size));
    if (last.cut && last.size == size) return size;
  }
  return 0;
}

void append_valid_utf8(std::string& out, std::string_view bytes) {
  while (!bytes.empty()) {
    const size_t valid = valid_utf8_prefix(bytes);
    out.append(bytes.substr(0, valid));
    bytes.remove_prefix(valid);
    if (bytes.empty()) break;
    append_utf8(out, replacement_character);
    bytes.remove_prefix(read_utf8(bytes).size);
  }
}

}  // namespace troupe::model
