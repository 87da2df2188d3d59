#pragma once

#include "actors/http/api_error.hpp"
#include "actors/http/api_limits.hpp"
#include "actors/http/generation_options.hpp"
#include "model/tokenizer/chat.hpp"
#include "model/vision/media.hpp"

#include <string_view>
#include <variant>
#include <vector>

namespace troupe::http {

/// A validated body of POST /v1/chat/completions: every value is in its range, no JSON is left.
struct chat_request {
  generation_options options;
  model::chat_prompt chat;
  std::vector<model::media_item> media;
  bool parse_tool_calls = false;  // tools were given and may be called
};

/// Parses and validates `body`. Media are decoded from base64 and charged by their headers, no
/// pixel is decoded. Time and memory are linear in the body's size. Never throws for what the body
/// holds.
std::variant<chat_request, api_error> parse_chat_request(std::string_view body,
                                                         const api_limits& limits);

/// The conversation of `request` alone: `messages`, `tools` and what goes with them.
void read_conversation(object_reader& request, const api_limits& limits, chat_request& out);

/// Runs `parse` on the JSON object in `body` and turns faults into errors.
template <class Request, class Parse>
std::variant<Request, api_error> parse_body(std::string_view body, Parse parse) {
  try {
    object_reader reader(config::parse_json(body), "");
    return parse(reader);
  } catch (const config::json_error& error) {
    if (!error.field().empty()) {
      auto fault = make_error(400, "invalid_value", error.what());
      fault.param = error.field();
      return fault;
    }
    return make_error(400, "invalid_json",
                      std::string("the body is not valid JSON: ") + error.what());
  } catch (const request_fault& fault) {
    return fault.error();
  }
}

}  // namespace troupe::http
