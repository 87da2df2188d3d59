#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace troupe::model {

struct text_part {
  std::string text;
};

/// A picture or video of the request, by its index in the request's media list.
struct media_part {
  int32_t media_index = 0;
  bool video = false;
};
using content_part = std::variant<text_part, media_part>;

struct tool_call {
  std::string name;
  std::string arguments;  // JSON text, rendered verbatim
};

enum class chat_role : uint8_t { system, user, assistant, tool };

struct chat_message {
  chat_role role = chat_role::user;
  std::vector<content_part> content;             // media in user and tool turns
  std::vector<tool_call> tool_calls;             // assistant only
  std::optional<std::string> reasoning_content;  // assistant only; Thinking template
};

enum class template_kind : uint8_t { instruct, thinking };

/// A conversation to render. `tools`: each tool object as JSON text in Python's json.dumps form.
struct chat_prompt {
  std::vector<chat_message> messages;
  std::vector<std::string> tools;
  bool add_generation_prompt = true;
  bool add_vision_id = false;
};

/// A piece of a rendered prompt: control text written by the template (special tokens are parsed),
/// user text (never parsed for special tokens), or a media place.
struct template_text {
  std::string text;
};

struct user_text {
  std::string text;
};

struct media_place {
  int32_t media_index = 0;
  bool video = false;
};
using rendered_piece = std::variant<template_text, user_text, media_place>;

/// Renders as the model's own chat template does (Qwen3-VL Instruct or Thinking). A media_place
/// stands for the whole `<|vision_start|>…<|vision_end|>` triple. Pieces that touch and have the
/// same kind are joined; none is empty.
///
/// Media outside user and tool turns are not rendered, except in the first system turn and later
/// ones of Thinking (whose own template would number the former 0). With tools, the tool objects
/// and what the model said of them are user text too: the template's own words are the only source
/// of special tokens.
std::vector<rendered_piece> render_chat(const chat_prompt& chat, template_kind kind);

}  // namespace troupe::model
