#pragma once

#include "model/tokenizer/chat.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::http {

/// A stretch of an answer: reasoning, text for the reader, or one call of a tool.
struct answer_piece {
  enum class kind : uint8_t { reasoning, content, tool_call };
  kind what = kind::content;
  std::string text;
  model::tool_call call;  // tool_call only
};

/// Splits an answer, as it streams in, at the model's own tags: reasoning up to `</think>` and
/// calls between `<tool_call>` and `</tool_call>`. Linear in the text; nothing is evaluated; what
/// is not a well-formed call stays plain text. Newlines around tags belong to the tags.
class answer_parser {
 public:
  struct settings {
    bool reasoning = false;  // the answer begins inside the reasoning
    bool tool_calls = false;
  };
  explicit answer_parser(settings what);

  /// The pieces that `text` completes; the beginning of a tag is held back.
  std::vector<answer_piece> push(std::string_view text);
  /// The answer ended: what was held back, as text.
  std::vector<answer_piece> finish();

  bool in_reasoning() const { return state_ == state::reasoning; }
  size_t held_bytes() const { return held_.size(); }

 private:
  enum class state : uint8_t { reasoning, content, call };

  bool advance(std::vector<answer_piece>& pieces);
  bool leave_text(std::string_view tag, state next, std::vector<answer_piece>& pieces);
  bool leave_call(std::vector<answer_piece>& pieces);
  void emit(std::string_view text, std::vector<answer_piece>& pieces);

  settings settings_;
  state state_;
  std::string held_;
  size_t searched_ = 0;     // of held_: no tag begins before this
  bool after_tag_ = false;  // newlines at the front are the tag's
};

}  // namespace troupe::http
