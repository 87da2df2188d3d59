#pragma once

#include "actors/messages.hpp"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace troupe::http {

/// How log-probabilities are written.
struct logprob_style {
  bool chat = true;            // objects per token, else OpenAI's older parallel lists
  bool tokens_as_ids = false;  // "token_id:17" in place of text
  std::function<std::string_view(int32_t)> token_bytes;  // of the alternatives
};

/// Log-probabilities of one choice as JSON text that waits to be written.
class logprob_text {
 public:
  /// `text_offset`: where the token's text begins in its answer.
  void add(const actors::delta_token& token, size_t text_offset, const logprob_style& style);
  /// Appends the value of the member `logprobs`.
  void append_to(std::string& out, bool chat) const;
  bool empty() const { return tokens_.empty(); }
  size_t bytes() const { return tokens_.size() + values_.size() + tops_.size() + offsets_.size(); }
  void clear();

 private:
  void add_chat(const actors::delta_token& token, const logprob_style& style);
  void add_lists(const actors::delta_token& token, size_t text_offset, const logprob_style& style);

  std::string tokens_;  // chat: whole entries
  std::string values_;
  std::string tops_;
  std::string offsets_;
};

}  // namespace troupe::http
