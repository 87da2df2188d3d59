#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

struct added_token {
  std::string text;
  int32_t id = 0;
  bool special = false;  // dropped from visible text
};

/// Tokens that are matched in the text itself and never come out of merges. Immutable.
class added_tokens {
 public:
  struct match {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = 0;
  };

  /// Texts are not empty and differ from each other.
  explicit added_tokens(std::vector<added_token> tokens);

  /// The first place at or after `from` where an added token starts; the longest of those that
  /// start there.
  std::optional<match> find_in(std::string_view text, size_t from) const;

  /// The token whose whole text is `text`, or null.
  const added_token* find(std::string_view text) const;

  const std::vector<added_token>& all() const { return tokens_; }

 private:
  const added_token* longest_at(std::string_view text) const;

  std::vector<added_token> tokens_;  // by text
  std::string first_bytes_;
};

}  // namespace troupe::model
