#include "model/tokenizer/tokenizer_tables.hpp"

#include "config/error.hpp"
#include "config/json.hpp"
#include "config/json_fields.hpp"
#include "model/tokenizer/byte_alphabet.hpp"
#include "model/tokenizer/qwen_split.hpp"

#include <fmt/format.h>

#include <array>
#include <unordered_set>
#include <utility>

namespace troupe::model {
namespace {

using config::json_fields;
using config::json_value;

// Sixteen times the largest published vocabularies: no id in a file may reserve more memory.
constexpr int32_t token_id_max = (1 << 22) - 1;
// A broken file has a fault per line; the first ones tell what is wrong.
constexpr size_t faults_max = 20;

struct token_pair {
  std::string_view left;
  std::string_view right;
};

/// A rule is a pair of tokens, or in older files both in one string.
std::optional<token_pair> read_pair(const json_value& rule) {
  if (const auto text = rule.string()) {
    const size_t space = text->find(' ');
    if (space == std::string_view::npos) return std::nullopt;
    return token_pair{text->substr(0, space), text->substr(space + 1)};
  }
  const auto parts = rule.elements();
  if (parts.size() != 2 || !parts[0].string() || !parts[1].string()) return std::nullopt;
  return token_pair{*parts[0].string(), *parts[1].string()};
}

/// Reads the parts of a tokenizer.json in the order in which they depend on each other. A part is
/// read only if those before it have no faults.
class tokenizer_reader {
 public:
  tokenizer_reader(std::string_view json, const std::string& origin)
      : place_(origin + ": "), root_(config::parse_json_file(json, origin)) {}

  tokenizer_tables read() {
    check_pipeline();
    read_vocabulary();
    auto added = read_added_tokens();
    stop_at_faults();
    auto merges = read_merges();
    stop_at_faults();
    tokenizer_tables tables{
        std::move(tokens_), added_tokens(std::move(added)), std::move(merges), {}};
    collect_whole_words(tables);
    return tables;
  }

 private:
  void stop_at_faults() {
    if (faults_.empty()) return;
    if (faults_.size() > faults_max) {
      const size_t left_out = faults_.size() - faults_max;
      faults_.resize(faults_max);
      faults_.push_back(fmt::format("{}{} more faults", place_, left_out));
    }
    throw config::error(std::move(faults_));
  }

  template <class... Args>
  void fail(fmt::format_string<Args...> text, Args&&... args) {
    faults_.push_back(place_ + fmt::format(text, std::forward<Args>(args)...));
  }

  void expect_type(const json_fields& part, std::string_view type) const {
    if (part.string("type") != type) part.expect_string("type", type);
  }

  json_fields root() { return json_fields(root_, place_, faults_); }

  void check_pipeline() {
    expect_type(root().object("normalizer"), "NFC");
    check_pre_tokenizer();
    expect_type(root().object("decoder"), "ByteLevel");
    if (root().has("post_processor")) expect_type(root().object("post_processor"), "ByteLevel");
    const auto model = root().object("model");
    expect_type(model, "BPE");
    model.expect_number("dropout", 0.0);
    model.expect_string("unk_token", "");
    model.expect_string("continuing_subword_prefix", "");
    model.expect_string("end_of_word_suffix", "");
    model.expect_boolean("byte_fallback", false);
    model.expect_boolean("ignore_merges", false);
  }

  void check_pre_tokenizer() {
    const auto sequence = root().object("pre_tokenizer");
    expect_type(sequence, "Sequence");
    const auto steps = member("pre_tokenizer", "pretokenizers").elements();
    if (steps.size() != 2) {
      fail("pre_tokenizer.pretokenizers: found {} steps, expected Split and ByteLevel",
           steps.size());
      return;
    }
    const json_fields split(steps[0], place_ + "pre_tokenizer.pretokenizers[0].", faults_);
    expect_type(split, "Split");
    split.expect_string("behavior", "Isolated");
    split.expect_boolean("invert", false);
    const auto pattern = split.object("pattern");
    if (pattern.string("Regex") != qwen_split_pattern)
      pattern.expect_string("Regex", qwen_split_pattern);
    const json_fields bytes(steps[1], place_ + "pre_tokenizer.pretokenizers[1].", faults_);
    expect_type(bytes, "ByteLevel");
    bytes.expect_boolean("add_prefix_space", false);
    bytes.expect_boolean("use_regex", false);
  }

  /// root[part][key], or an empty object: its absence is reported where its type is checked.
  json_value member(std::string_view part, std::string_view key) const {
    const auto object = root_.find(part);
    const auto value = object ? object->find(key) : std::nullopt;
    return value.value_or(config::parse_json("{}"));
  }

  void read_vocabulary() {
    const json_value vocabulary = member("model", "vocab");
    for (const auto& [spelling, value] : vocabulary.members()) {
      const auto id = value.integer();
      const auto bytes = bytes_of_spelling(spelling);
      if (!id || *id < 0 || *id > token_id_max) {
        fail("model.vocab: id of '{}' is no integer from 0 to {}", spelling, token_id_max);
      } else if (!bytes || bytes->empty()) {
        fail("model.vocab: token '{}' is not spelled in the byte-level alphabet", spelling);
      } else if (place_token(static_cast<int32_t>(*id), spelling, {token_kind::plain, *bytes})) {
        id_of_spelling_.emplace(spelling, static_cast<int32_t>(*id));
      }
    }
    if (id_of_spelling_.empty()) fail("model.vocab: is missing or empty, expected ids by token");
  }

  bool place_token(int32_t id, std::string_view name, token_entry placed) {
    const auto index = static_cast<size_t>(id);
    if (index >= tokens_.size()) tokens_.resize(index + 1);
    if (tokens_[index].kind != token_kind::none) {
      fail("token '{}': id {} is in use already", name, id);
      return false;
    }
    tokens_[index] = std::move(placed);
    return true;
  }

  std::vector<added_token> read_added_tokens() {
    std::vector<added_token> tokens;
    std::unordered_set<std::string> texts;
    const auto listed = root_.find("added_tokens");
    if (!listed) return tokens;
    size_t index = 0;
    for (const auto& entry : listed->elements()) {
      const auto place = fmt::format("{}added_tokens[{}].", place_, index++);
      auto token = read_added_token(json_fields(entry, place, faults_));
      if (token.text.empty()) continue;
      if (!texts.insert(token.text).second) fail("added_tokens: '{}' is listed twice", token.text);
      place_added_token(token);
      tokens.push_back(std::move(token));
    }
    return tokens;
  }

  static added_token read_added_token(const json_fields& entry) {
    for (const auto* option : {"single_word", "lstrip", "rstrip", "normalized"})
      entry.expect_boolean(option, false);
    added_token token{entry.string("content"), entry.size("id", {0, token_id_max}),
                      entry.boolean("special")};
    if (token.text.empty()) entry.fail("content", "is empty, expected the token's text");
    return token;
  }

  /// A vocabulary may list an added token too, under the same id.
  void place_added_token(const added_token& listed) {
    const auto kind = listed.special ? token_kind::special : token_kind::added;
    const auto plain = id_of_spelling_.find(listed.text);
    if (plain == id_of_spelling_.end()) {
      place_token(listed.id, listed.text, {kind, listed.text});
    } else if (plain->second != listed.id) {
      fail("added token '{}': id is {}, but {} in model.vocab", listed.text, listed.id,
           plain->second);
    } else {
      tokens_[static_cast<size_t>(listed.id)] = {kind, listed.text};
    }
  }

  std::array<int32_t, 256> read_byte_ids() {
    std::array<int32_t, 256> ids;
    ids.fill(-1);
    for (const auto& [spelling, id] : id_of_spelling_) {
      const auto& [kind, bytes] = tokens_[static_cast<size_t>(id)];
      if (bytes.size() == 1 && kind == token_kind::plain) ids[static_cast<uint8_t>(bytes[0])] = id;
    }
    for (size_t byte = 0; byte < ids.size(); ++byte)
      if (ids[byte] < 0) fail("model.vocab: has no token for byte {:#04x}", byte);
    return ids;
  }

  byte_pair_merges read_merges() {
    const auto rules = member("model", "merges").elements();
    byte_pair_merges merges(read_byte_ids(), rules.size());
    for (size_t index = 0; index < rules.size(); ++index) add_merge(merges, rules[index], index);
    return merges;
  }

  void add_merge(byte_pair_merges& merges, const json_value& rule, size_t index) {
    const auto pair = read_pair(rule);
    if (!pair) {
      fail("model.merges[{}]: is no pair of tokens", index);
      return;
    }
    const auto left = find_token(pair->left, index);
    const auto right = find_token(pair->right, index);
    const auto merged = find_token(std::string(pair->left) + std::string(pair->right), index);
    if (!left || !right || !merged) return;
    if (const auto& [kind, bytes] = tokens_[static_cast<size_t>(*merged)];
        kind != token_kind::plain) {
      fail("model.merges[{}]: makes the added token '{}' out of plain text", index, bytes);
    } else if (!merges.add(*left, *right, *merged)) {
      fail("model.merges[{}]: '{}' and '{}' have a rule already", index, pair->left, pair->right);
    }
  }

  std::optional<int32_t> find_token(std::string_view spelling, size_t merge_index) {
    const auto found = id_of_spelling_.find(spelling);
    if (found != id_of_spelling_.end()) return found->second;
    fail("model.merges[{}]: '{}' is not in model.vocab", merge_index, spelling);
    return std::nullopt;
  }

  void collect_whole_words(tokenizer_tables& tables) const {
    std::vector<int32_t> ids;
    tables.whole_words.reserve(id_of_spelling_.size());
    for (const auto& [spelling, id] : id_of_spelling_) {
      const std::string& bytes = tables.tokens[static_cast<size_t>(id)].bytes;
      ids.clear();
      tables.merges.encode(bytes, ids);
      if (ids.size() == 1 && ids[0] == id) tables.whole_words.emplace(bytes, id);
    }
  }

  std::string place_;
  json_value root_;
  std::vector<std::string> faults_;
  std::vector<token_entry> tokens_;
  std::unordered_map<std::string_view, int32_t> id_of_spelling_;  // keys live in `root_`
};

}  // namespace

tokenizer_tables parse_tokenizer_tables(std::string_view json, const std::string& origin) {
  return tokenizer_reader(json, origin).read();
}

}  // namespace troupe::model
