#include "model/tokenizer/byte_alphabet.hpp"

#include "model/tokenizer/utf8.hpp"

#include <array>
#include <cstdint>

namespace troupe::model {
namespace {

constexpr int32_t num_bytes = 256;
constexpr int32_t num_respelled = 68;
constexpr int32_t alphabet_end = 0x100 + num_respelled;

constexpr bool spells_itself(int32_t byte) {
  return (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
}

/// Byte of each character of the alphabet, -1 for characters that are not in it.
constexpr std::array<int16_t, alphabet_end> make_byte_of_character() {
  std::array<int16_t, alphabet_end> table{};
  int32_t next = 0x100;
  for (auto& entry : table) entry = -1;
  for (int32_t byte = 0; byte < num_bytes; ++byte) {
    const int32_t character = spells_itself(byte) ? byte : next++;
    table[static_cast<size_t>(character)] = static_cast<int16_t>(byte);
  }
  return table;
}

constexpr auto byte_of_character = make_byte_of_character();
static_assert(byte_of_character.back() == 173,
              "the soft hyphen is the last byte with a new spelling");

}  // namespace

std::optional<std::string> bytes_of_spelling(std::string_view spelling) {
  std::string bytes;
  bytes.reserve(spelling.size());
  while (!spelling.empty()) {
    const utf8_character next = read_utf8(spelling);
    const int32_t character = next.code_point;
    if (character >= alphabet_end || byte_of_character[static_cast<size_t>(character)] < 0)
      return std::nullopt;
    bytes.push_back(static_cast<char>(byte_of_character[static_cast<size_t>(character)]));
    spelling.remove_prefix(next.size);
  }
  return bytes;
}

}  // namespace troupe::model
