#pragma once

#include "actors/messages.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::actors {

/// Where a stop text lies in a piece of text.
struct stop_match {
  size_t begin = 0;
  size_t end = 0;
};

/// The match that a reader of one character after the other would meet first; of those that end together
/// the longest. So the outcome does not depend on how tokens cut the text.
std::optional<stop_match> find_stop(std::string_view text, const std::vector<std::string>& stops);

/// Length of the longest end of `text` that is the beginning of a stop text: what must be held back.
size_t held_length(std::string_view text, const std::vector<std::string>& stops);

/// One request's answer as it grows: whole UTF-8, cut before the first stop text (or behind it, if the
/// request includes it). A token leaves together with the first of its text that may leave; bytes of a token
/// that a stop text cuts are cut with it, so that no part of a stop text ever leaves in any form.
class generated_text {
 public:
  generated_text(std::shared_ptr<const completion_request> request, const model::tokenizer& tokenizer);

  /// Takes one token and returns what may leave now; `id` and order are the caller's. Without effect
  /// once stopped.
  text_delta push(int32_t token, plan::token_logprobs logprobs);
  /// The answer ended: what was held back and is no stop text.
  text_delta finish();

  bool stopped() const { return stopped_; }
  /// Tokens taken so far, those of the stop text included.
  int32_t num_tokens() const { return num_tokens_; }

 private:
  /// A token that has not left. While `open` it gave no text yet: it ends inside a character, whose text
  /// comes with a later token, or has none to show.
  struct held_token {
    delta_token token;
    ptrdiff_t text_begin = 0;  // in held_text_; negative if some of its text left already
    ptrdiff_t text_end = 0;
    bool open = true;
  };

  void append(const std::string& text);
  text_delta advance(bool ending);
  text_delta release(size_t text_length, bool everything);
  void cut_at(size_t kept_length);

  std::shared_ptr<const completion_request> request_;
  const model::tokenizer* tokenizer_;
  model::streaming_detokenizer detokenizer_;
  std::string held_text_;
  std::deque<held_token> held_tokens_;
  int32_t num_tokens_ = 0;
  bool stopped_ = false;
};

}  // namespace troupe::actors
