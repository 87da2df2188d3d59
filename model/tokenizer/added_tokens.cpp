#include "model/tokenizer/added_tokens.hpp"

#include <algorithm>
#include <utility>

namespace troupe::model {
namespace {

bool text_before(const added_token& token, std::string_view text) {
  return token.text < text;
}

}  // namespace

added_tokens::added_tokens(std::vector<added_token> tokens) : tokens_(std::move(tokens)) {
  std::sort(tokens_.begin(), tokens_.end(),
            [](const auto& left, const auto& right) { return left.text < right.text; });
  for (const auto& token : tokens_)
    if (first_bytes_.empty() || first_bytes_.back() != token.text.front())
      first_bytes_.push_back(token.text.front());
}

const added_token* added_tokens::find(std::string_view text) const {
  const auto found = std::lower_bound(tokens_.begin(), tokens_.end(), text, text_before);
  return found != tokens_.end() && found->text == text ? &*found : nullptr;
}

std::optional<added_tokens::match> added_tokens::find_in(std::string_view text, size_t from) const {
  for (size_t at = from; (at = text.find_first_of(first_bytes_, at)) < text.size(); ++at)
    if (const auto* token = longest_at(text.substr(at)))
      return match{at, at + token->text.size(), token->id};
  return std::nullopt;
}

/// Narrows the sorted texts to those that agree with `text` one byte at a time, so that a place
/// costs the length of what matches there, however many tokens there are.
const added_token* added_tokens::longest_at(std::string_view text) const {
  const added_token* longest = nullptr;
  auto first = tokens_.begin(), last = tokens_.end();
  for (size_t depth = 0; depth < text.size() && first != last; ++depth) {
    const std::string_view prefix = text.substr(0, depth + 1);
    const auto shorter = [depth](const added_token& token, std::string_view wanted) {
      return std::string_view(token.text).substr(0, depth + 1) < wanted;
    };
    const auto longer = [depth](std::string_view wanted, const added_token& token) {
      return wanted < std::string_view(token.text).substr(0, depth + 1);
    };
    first = std::lower_bound(first, last, prefix, shorter);
    last = std::upper_bound(first, last, prefix, longer);
    if (first != last && first->text == prefix) longest = &*first;
  }
  return longest;
}

}  // namespace troupe::model
