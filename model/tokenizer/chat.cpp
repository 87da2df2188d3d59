#include "model/tokenizer/chat.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

namespace troupe::model {
namespace {

constexpr std::string_view turn_end = "<|im_end|>\n";
constexpr std::string_view tools_head =
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>";
constexpr std::string_view tools_tail =
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    "within <tool_call></tool_call> XML tags:\n<tool_call>\n"
    "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>";
constexpr std::string_view think_open = "<think>";
constexpr std::string_view think_close = "</think>";

/// The rendered prompt so far, its last piece still growing.
class piece_list {
 public:
  void control(std::string_view text) { append<template_text>(text); }
  void user(std::string_view text) { append<user_text>(text); }
  void media(const media_part& part) {
    pieces_.emplace_back(media_place{part.media_index, part.video});
  }

  std::vector<rendered_piece> take() { return std::move(pieces_); }

 private:
  template <class Piece>
  void append(std::string_view text) {
    if (text.empty()) return;
    if (pieces_.empty() || !std::holds_alternative<Piece>(pieces_.back()))
      pieces_.emplace_back(std::in_place_type<Piece>);
    std::get<Piece>(pieces_.back()).text += text;
  }

  std::vector<rendered_piece> pieces_;
};

/// The text of `content`, with `media_text` in the place of each picture or clip.
std::string text_of(const std::vector<content_part>& content, std::string_view media_text = {}) {
  std::string text;
  for (const auto& part : content) {
    const auto* written = std::get_if<text_part>(&part);
    text += written != nullptr ? std::string_view(written->text) : media_text;
  }
  return text;
}

std::string_view strip_left(std::string_view text) {
  text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  return text;
}

std::string_view strip_right(std::string_view text) {
  return text.substr(0, text.find_last_not_of('\n') + 1);  // npos + 1 is 0: nothing but newlines
}

/// What an assistant said, taken apart into its reasoning and the answer behind it.
struct assistant_text {
  std::string_view reasoning;
  std::string_view answer;
};

/// `content` outlives the result.
assistant_text take_apart(const chat_message& message, std::string_view content) {
  if (message.reasoning_content) return {*message.reasoning_content, content};
  const size_t first_close = content.find(think_close);
  if (first_close == std::string_view::npos) return {{}, content};
  std::string_view reasoning = strip_right(content.substr(0, first_close));
  const size_t open = reasoning.rfind(think_open);
  if (open != std::string_view::npos) reasoning.remove_prefix(open + think_open.size());
  const size_t answer = content.rfind(think_close) + think_close.size();
  return {strip_left(reasoning), strip_left(content.substr(answer))};
}

/// Whether a user turn asks something: not if all of it is a tool's response that the client
/// wrapped itself.
bool is_query(const chat_message& message) {
  if (message.role != chat_role::user) return false;
  const auto text = text_of(message.content, "<|vision_start|>");
  return !text.starts_with("<tool_response>") || !text.ends_with("</tool_response>");
}

class chat_renderer {
 public:
  chat_renderer(const chat_prompt& chat, template_kind kind)
      : chat_(chat), thinking_(kind == template_kind::thinking), last_query_(find_last_query()) {}

  std::vector<rendered_piece> render() {
    render_head();
    for (size_t index = 0; index < chat_.messages.size(); ++index) render_turn(index);
    if (chat_.add_generation_prompt) {
      out_.control("<|im_start|>assistant\n");
      if (thinking_) out_.control("<think>\n");
    }
    return out_.take();
  }

 private:
  size_t find_last_query() const {
    const auto& messages = chat_.messages;
    const auto found = std::find_if(messages.rbegin(), messages.rend(), is_query);
    const auto behind = found == messages.rend() ? messages.rbegin() : found;
    return static_cast<size_t>(messages.rend() - behind) - 1;
  }

  bool starts_with_system() const {
    return !chat_.messages.empty() && chat_.messages.front().role == chat_role::system;
  }

  bool is_tool(size_t index) const {
    return index < chat_.messages.size() && chat_.messages[index].role == chat_role::tool;
  }

  /// The first system message and the tools share one turn.
  void render_head() {
    const bool has_tools = !chat_.tools.empty();
    if (!has_tools && !starts_with_system()) return;
    out_.control("<|im_start|>system\n");
    if (starts_with_system()) {
      render_first_system(chat_.messages.front());
      if (has_tools) out_.control("\n\n");
    }
    if (has_tools) render_tools();
    out_.control(turn_end);
  }

  void render_tools() {
    out_.control(tools_head);
    for (const auto& tool : chat_.tools) {
      out_.control("\n");
      out_.user(tool);
    }
    out_.control(tools_tail);
  }

  void render_first_system(const chat_message& message) {
    if (thinking_) {
      render_content(message.content);
    } else {
      out_.user(text_of(message.content));
    }
  }

  void render_turn(size_t index) {
    const chat_message& message = chat_.messages[index];
    switch (message.role) {
      case chat_role::system:
        if (thinking_ && index > 0) render_plain_turn("system", message);
        break;
      case chat_role::user:
        render_plain_turn("user", message);
        break;
      case chat_role::assistant:
        render_assistant(message, index);
        break;
      case chat_role::tool:
        render_tool(message, index);
        break;
    }
  }

  void render_plain_turn(std::string_view role, const chat_message& message) {
    out_.control("<|im_start|>");
    out_.control(role);
    out_.control("\n");
    render_content(message.content);
    out_.control(turn_end);
  }

  void render_content(const std::vector<content_part>& content) {
    for (const auto& part : content) {
      if (const auto* text = std::get_if<text_part>(&part)) {
        out_.user(text->text);
      } else {
        render_media(std::get<media_part>(part));
      }
    }
  }

  void render_media(const media_part& part) {
    const int64_t number = ++(part.video ? num_videos_ : num_pictures_);
    if (chat_.add_vision_id)
      out_.control(fmt::format("{} {}: ", part.video ? "Video" : "Picture", number));
    out_.media(part);
  }

  void render_assistant(const chat_message& message, size_t index) {
    const std::string content = text_of(message.content);
    out_.control("<|im_start|>assistant\n");
    if (!thinking_) {
      out_.user(content);
      render_tool_calls(message, !content.empty());
      return;
    }
    const auto [reasoning, answer] = take_apart(message, content);
    const bool last = index + 1 == chat_.messages.size();
    if (index > last_query_ && (last || !reasoning.empty())) {
      out_.control("<think>\n");
      out_.user(strip_left(strip_right(reasoning)));
      out_.control("\n</think>\n\n");
      out_.user(strip_left(answer));
    } else {
      out_.user(answer);
    }
    render_tool_calls(message, !answer.empty());
  }

  /// The calls, and the end of the turn.
  void render_tool_calls(const chat_message& message, bool behind_text) {
    for (const auto& call : message.tool_calls) {
      if (behind_text) out_.control("\n");
      behind_text = true;
      out_.control("<tool_call>\n{\"name\": \"");
      out_.user(call.name);
      out_.control("\", \"arguments\": ");
      out_.user(call.arguments);
      out_.control("}\n</tool_call>");
    }
    out_.control(turn_end);
  }

  /// Responses of tools that follow each other share one user turn.
  void render_tool(const chat_message& message, size_t index) {
    if (index == 0 || !is_tool(index - 1)) out_.control("<|im_start|>user");
    out_.control("\n<tool_response>\n");
    render_content(message.content);
    out_.control("\n</tool_response>");
    if (!is_tool(index + 1)) out_.control(turn_end);
  }

  const chat_prompt& chat_;
  bool thinking_;
  size_t last_query_;
  int64_t num_pictures_ = 0;
  int64_t num_videos_ = 0;
  piece_list out_;
};

}  // namespace

std::vector<rendered_piece> render_chat(const chat_prompt& chat, template_kind kind) {
  return chat_renderer(chat, kind).render();
}

}  // namespace troupe::model
