#pragma once

#include "model/tokenizer/added_tokens.hpp"

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Text to token ids and back, and conversations to text. Pure: no device, no actor, no state
/// between calls except what a streaming_detokenizer holds back.
namespace troupe::model {

struct tokenizer_tables;

/// Byte-level BPE of the Qwen family: NFC, the Qwen split, merges, added tokens. Immutable after
/// loading; safe to use from several threads.
///
/// Bytes that are not UTF-8 are read as U+FFFD, one for each maximal part that can not be a
/// character. So for every text, decode(encode(text)) is its normal form C.
class tokenizer {
 public:
  /// Reads tokenizer.json (merges as "a b" strings or as pairs). Throws config::error naming what
  /// is missing, duplicated, out of range or unsupported.
  static tokenizer load(const std::filesystem::path& tokenizer_json);
  static tokenizer parse(std::string_view json, const std::string& origin);
  ~tokenizer();
  tokenizer(tokenizer&&) noexcept;
  tokenizer& operator=(tokenizer&&) noexcept;

  /// Longest text that can be encoded.
  static constexpr size_t text_bytes_max = size_t{1} << 30;

  /// Appends the tokens of text as a person wrote it: never an added token. Time O(n log n),
  /// constant stack. Throws std::length_error if `text` is longer than `text_bytes_max`.
  void encode_text(std::string_view text, std::vector<int32_t>& ids) const;
  /// Template text: added tokens are cut out first, longest match, before normalisation.
  void encode_with_special(std::string_view text, std::vector<int32_t>& ids) const;

  /// The tokens that encode_with_special cuts out.
  const added_tokens& added() const;

  /// Bytes of one token; empty for ids without a token. Added tokens give their text.
  std::string_view token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;  // added and marked special: dropped from visible text
  bool is_added(int32_t id) const;
  bool exists(int32_t id) const;
  std::optional<int32_t> added_token(std::string_view text) const;
  int32_t size() const;  // one past the largest id with a token

  /// The text of `ids` with U+FFFD for what is not UTF-8.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const;

 private:
  explicit tokenizer(std::unique_ptr<const tokenizer_tables> tables);
  void encode_word(std::string_view word, std::vector<int32_t>& ids) const;
  std::unique_ptr<const tokenizer_tables> tables_;
};

/// Turns a stream of token ids into text that is whole UTF-8 at every step: bytes of an unfinished
/// character are held back, bytes that can never become one turn into U+FFFD. All pieces together
/// are what `decode` gives for all ids.
class streaming_detokenizer {
 public:
  /// `tokenizer` outlives this.
  explicit streaming_detokenizer(const tokenizer& tokenizer, bool skip_special = true);

  /// Text that became complete with this token, possibly empty.
  std::string push(int32_t id);
  /// What is still held back, as U+FFFD per maximal invalid part.
  std::string finish();

 private:
  const tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // at most three bytes between calls
};

}  // namespace troupe::model
