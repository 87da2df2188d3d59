// Encodes what it reads, for comparison with other tokenizers: tokenizer_driver TOKENIZER_JSON.
//
// In:  a record per text: 't' or 's' (plain text, or with special tokens), its length as four
// bytes,
//      least significant first, its bytes.
// Out: a line of JSON per record: {"ids": [...], "text": "..."}, the text decoded from the ids
// again.
#include "config/json.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <array>
#include <cstdint>
#include <exception>
#include <iostream>
#include <optional>
#include <string>
#include <vector>

using troupe::model::tokenizer;

namespace {

struct record {
  bool with_special = false;
  std::string text;
};

std::optional<record> read_record(std::istream& in) {
  std::array<char, 5> head;
  if (!in.read(head.data(), head.size())) return std::nullopt;
  uint32_t length = 0;
  for (size_t i = 4; i > 0; --i) length = (length << 8) | static_cast<uint8_t>(head[i]);
  record result{head[0] == 's', std::string(length, '\0')};
  if (!in.read(result.text.data(), length)) return std::nullopt;
  return result;
}

std::string answer(const tokenizer& tokenizer, const record& asked) {
  std::vector<int32_t> ids;
  if (asked.with_special) {
    tokenizer.encode_with_special(asked.text, ids);
  } else {
    tokenizer.encode_text(asked.text, ids);
  }
  std::string line = "{\"ids\": [";
  for (const int32_t id : ids) {
    if (line.back() != '[') line += ", ";
    line += std::to_string(id);
  }
  line += "], \"text\": ";
  troupe::config::append_json_string(line, tokenizer.decode(ids, false));
  return line + "}\n";
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenizer_driver TOKENIZER_JSON\n";
    return 2;
  }
  try {
    std::ios::sync_with_stdio(false);
    const auto loaded = tokenizer::load(argv[1]);
    while (const auto next = read_record(std::cin)) std::cout << answer(loaded, *next);
    return 0;
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return 1;
  }
}
