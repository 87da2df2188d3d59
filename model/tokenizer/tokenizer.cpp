#include "model/tokenizer/tokenizer.hpp"

#include "config/checkpoint_file.hpp"
#include "model/tokenizer/nfc.hpp"
#include "model/tokenizer/qwen_split.hpp"
#include "model/tokenizer/tokenizer_tables.hpp"
#include "model/tokenizer/utf8.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace troupe::model {
namespace {

// Twenty times the released file.
constexpr int64_t file_bytes_max = 256 << 20;
// Neither U+FFFD for a byte nor NFC makes UTF-8 more than three times as long, so that every word
// stays within the bound of the merges. Source: Unicode Standard Annex 15, table 8.
static_assert(3 * tokenizer::text_bytes_max <= byte_pair_merges::word_bytes_max);

}  // namespace

tokenizer tokenizer::load(const std::filesystem::path& tokenizer_json) {
  const auto folder = tokenizer_json.has_parent_path() ? tokenizer_json.parent_path() : ".";
  const auto text =
      config::read_checkpoint_file(folder, tokenizer_json.filename().string(), file_bytes_max);
  return parse(text, tokenizer_json.string());
}

tokenizer tokenizer::parse(std::string_view json, const std::string& origin) {
  return tokenizer(std::make_unique<const tokenizer_tables>(parse_tokenizer_tables(json, origin)));
}

tokenizer::tokenizer(std::unique_ptr<const tokenizer_tables> tables) : tables_(std::move(tables)) {}
tokenizer::~tokenizer() = default;
tokenizer::tokenizer(tokenizer&&) noexcept = default;
tokenizer& tokenizer::operator=(tokenizer&&) noexcept = default;

void tokenizer::encode_text(std::string_view text, std::vector<int32_t>& ids) const {
  if (text.size() > text_bytes_max)
    throw std::length_error(
        fmt::format("text has {} bytes, at most {} can be encoded", text.size(), text_bytes_max));
  std::string valid;
  if (valid_utf8_prefix(text) < text.size()) {
    append_valid_utf8(valid, text);
    text = valid;
  }
  const std::string normal = normalize_nfc(text);
  for (std::string_view rest = normal; !rest.empty();) {
    const size_t size = first_piece(rest);
    encode_word(rest.substr(0, size), ids);
    rest.remove_prefix(size);
  }
}

void tokenizer::encode_word(std::string_view word, std::vector<int32_t>& ids) const {
  const auto found = tables_->whole_words.find(word);
  if (found != tables_->whole_words.end()) {
    ids.push_back(found->second);
  } else {
    tables_->merges.encode(word, ids);
  }
}

void tokenizer::encode_with_special(std::string_view text, std::vector<int32_t>& ids) const {
  size_t done = 0;
  while (const auto match = added().find_in(text, done)) {
    encode_text(text.substr(done, match->begin - done), ids);
    ids.push_back(match->id);
    done = match->end;
  }
  encode_text(text.substr(done), ids);
}

const added_tokens& tokenizer::added() const {
  return tables_->added;
}

std::optional<int32_t> tokenizer::added_token(std::string_view text) const {
  const auto* found = added().find(text);
  if (found == nullptr) return std::nullopt;
  return found->id;
}

std::string_view tokenizer::token_bytes(int32_t id) const {
  return exists(id) ? tables_->tokens[static_cast<size_t>(id)].bytes : std::string_view();
}

bool tokenizer::is_special(int32_t id) const {
  return exists(id) && tables_->tokens[static_cast<size_t>(id)].kind == token_kind::special;
}

bool tokenizer::is_added(int32_t id) const {
  return exists(id) && tables_->tokens[static_cast<size_t>(id)].kind != token_kind::plain;
}

bool tokenizer::exists(int32_t id) const {
  return id >= 0 && id < size() &&
         tables_->tokens[static_cast<size_t>(id)].kind != token_kind::none;
}

int32_t tokenizer::size() const {
  return static_cast<int32_t>(tables_->tokens.size());
}

std::string tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  std::string bytes;
  for (const int32_t id : ids)
    if (!skip_special || !is_special(id)) bytes += token_bytes(id);
  std::string text;
  append_valid_utf8(text, bytes);
  return text;
}

streaming_detokenizer::streaming_detokenizer(const tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), skip_special_(skip_special) {}

std::string streaming_detokenizer::push(int32_t id) {
  if (skip_special_ && tokenizer_->is_special(id)) return {};
  pending_ += tokenizer_->token_bytes(id);
  const size_t complete = pending_.size() - cut_utf8_suffix(pending_);
  std::string text;
  append_valid_utf8(text, std::string_view(pending_).substr(0, complete));
  pending_.erase(0, complete);
  return text;
}

std::string streaming_detokenizer::finish() {
  std::string text;
  append_valid_utf8(text, pending_);
  pending_.clear();
  return text;
}

}  // namespace troupe::model
