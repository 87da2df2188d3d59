#pragma once

#include "config/model_config.hpp"
#include "model/plan/prompt.hpp"
#include "model/tokenizer/chat.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/vision/media.hpp"

#include <vector>

namespace troupe::model {

/// Turns a conversation and its media into tokens, visual spans and positions: renders the
/// template, encodes its pieces, and expands each media place to `<|vision_start|>` pads
/// `<|vision_end|>` (a clip: one such run per temporal group behind its timestamp, replacing the
/// template's triple). Binding is by place in the template: user text can never add or remove a
/// pad. Span digests are left zero. Throws config::error if the tokenizer lacks a token it needs,
/// std::invalid_argument if a media index is out of range or names an item of the other kind,
/// std::length_error if the prompt's tokens can not be counted in 32 bits.
plan::prompt build_prompt(const chat_prompt& chat, template_kind kind,
                          const std::vector<media_item>& media, const tokenizer& tokenizer,
                          const config::checkpoint_config& config);

}  // namespace troupe::model
