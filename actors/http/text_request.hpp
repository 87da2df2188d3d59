#pragma once

#include "actors/http/api_error.hpp"
#include "actors/http/api_limits.hpp"
#include "actors/http/chat_request.hpp"
#include "actors/http/generation_options.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace troupe::http {

/// One prompt of a text completion: as text (to be encoded without a template) or as token ids.
using text_prompt = std::variant<std::string, std::vector<int32_t>>;

/// A validated body of POST /v1/completions. Choices are numbered prompt by prompt.
struct text_request {
  generation_options options;
  std::vector<text_prompt> prompts;  // at least one, none empty
};
std::variant<text_request, api_error> parse_text_request(std::string_view body,
                                                         const api_limits& limits);

/// A validated body of POST /tokenize: a text or a conversation.
struct tokenize_request {
  std::variant<std::string, chat_request> input;
  bool with_strings = false;
};
std::variant<tokenize_request, api_error> parse_tokenize_request(std::string_view body,
                                                                 const api_limits& limits);

/// A validated body of POST /detokenize.
struct detokenize_request {
  std::vector<int32_t> ids;
};
std::variant<detokenize_request, api_error> parse_detokenize_request(std::string_view body,
                                                                     const api_limits& limits);

}  // namespace troupe::http
