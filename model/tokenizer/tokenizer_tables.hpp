#pragma once

#include "model/tokenizer/added_tokens.hpp"
#include "model/tokenizer/byte_pair_merges.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace troupe::model {

/// What an id stands for: nothing, a token of the merges, or an added token that visible text keeps
/// or drops.
enum class token_kind : uint8_t { none, plain, added, special };

struct token_entry {
  token_kind kind = token_kind::none;
  std::string bytes;
};

/// What a tokenizer.json means, checked and ready to use. Immutable once made.
struct tokenizer_tables {
  std::vector<token_entry> tokens;  // by id
  added_tokens added;
  byte_pair_merges merges;
  // Words that the merges turn into one token: most words of a text need no merging at all. Keys
  // point into `tokens`.
  std::unordered_map<std::string_view, int32_t> whole_words;
};

/// Parses tokenizer.json. Throws config::error with the faults found: a part of the pipeline other
/// than those of the Qwen family, an id out of range or used twice, a token or merge that does not
/// fit the vocabulary.
tokenizer_tables parse_tokenizer_tables(std::string_view json, const std::string& origin);

}  // namespace troupe::model
