#include "actors/http/base64.hpp"

#include <array>
#include <cstdint>

namespace troupe::http {

namespace {

// Any bit above the 24 of a group marks a character outside the alphabet.
constexpr uint32_t invalid = 0xFF000000;
constexpr std::string_view alphabet =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

using position_table = std::array<uint32_t, 256>;

/// Six bits of each character, shifted to where they belong in a group: four loads and three ors
/// decode and check four characters.
constexpr position_table make_table(int shift) {
  position_table table{};
  for (auto& entry : table) entry = invalid;
  for (size_t i = 0; i < alphabet.size(); ++i)
    table[static_cast<unsigned char>(alphabet[i])] = static_cast<uint32_t>(i) << shift;
  return table;
}

constexpr std::array<position_table, 4> tables{make_table(18), make_table(12), make_table(6),
                                               make_table(0)};

uint32_t group_of(const char* text) {
  const auto at = [&](size_t i) { return tables[i][static_cast<unsigned char>(text[i])]; };
  return at(0) | at(1) | at(2) | at(3);
}

size_t first_invalid(std::string_view text, size_t from) {
  while (from < text.size() && tables[3][static_cast<unsigned char>(text[from])] != invalid) ++from;
  return from;
}

/// The last group, which alone may be padded. Returns whether it is well formed.
bool decode_last(std::string_view group, std::string& bytes) {
  const size_t padding = group[3] != '=' ? 0 : group[2] != '=' ? 1 : 2;
  char filled[4] = {group[0], group[1], group[2], group[3]};
  for (size_t i = 4 - padding; i < 4; ++i) filled[i] = 'A';
  const uint32_t value = group_of(filled);
  const uint32_t unused = padding == 0 ? 0 : padding == 1 ? 0xFF : 0xFFFF;
  if ((value & invalid) != 0 || (value & unused) != 0) return false;
  for (size_t i = 0; i < 3 - padding; ++i) bytes += static_cast<char>(value >> (16 - 8 * i));
  return true;
}

}  // namespace

base64_result decode_base64(std::string_view text) {
  base64_result result;
  if (text.empty()) return result;
  if (text.size() % 4 != 0) {
    result.fault_offset = first_invalid(text, 0);
    return result;
  }
  const size_t last = text.size() - 4;
  result.bytes.reserve(base64_decoded_bytes_max(text.size()));
  result.bytes.resize(last / 4 * 3);
  char* to = result.bytes.data();
  for (size_t from = 0; from < last; from += 4, to += 3) {
    const uint32_t value = group_of(text.data() + from);
    if ((value & invalid) != 0) {
      result.bytes.clear();
      result.fault_offset = first_invalid(text, from);
      return result;
    }
    to[0] = static_cast<char>(value >> 16);
    to[1] = static_cast<char>(value >> 8);
    to[2] = static_cast<char>(value);
  }
  if (!decode_last(text.substr(last), result.bytes)) {
    result.bytes.clear();
    result.fault_offset = first_invalid(text, last);
  }
  return result;
}

}  // namespace troupe::http
