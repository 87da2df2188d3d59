#include "actors/http/text_request.hpp"

#include <fmt/format.h>

#include <limits>
#include <utility>

namespace troupe::http {

namespace {

using config::json_value;
using kind = json_value::kind;

std::vector<int32_t> read_ids(const std::vector<json_value>& values, const std::string& path,
                              const api_limits& limits, int64_t count_max) {
  if (static_cast<int64_t>(values.size()) > count_max)
    fail_at(path,
            fmt::format("{} has {} tokens, at most {} are allowed", path, values.size(), count_max),
            "context_length_exceeded");
  std::vector<int32_t> ids;
  ids.reserve(values.size());
  for (size_t i = 0; i < values.size(); ++i)
    ids.push_back(static_cast<int32_t>(
        checked_integer(values[i], fmt::format("{}[{}]", path, i), {0, limits.num_token_ids - 1})));
  return ids;
}

text_prompt read_prompt(const json_value& value, const std::string& path,
                        const api_limits& limits) {
  if (const auto text = value.string()) {
    if (text->empty()) fail_at(path, path + " is empty");
    return std::string(*text);
  }
  if (value.type() != kind::array)
    fail_at(path, fmt::format("{} must be a string or an array of token ids, found {}", path,
                              describe(value)));
  const auto values = value.elements();
  if (values.empty()) fail_at(path, path + " is empty");
  return read_ids(values, path, limits, limits.max_model_len);
}

/// A string, an array of strings, an array of ids or an array of arrays of ids.
std::vector<text_prompt> read_prompts(object_reader& request, const api_limits& limits) {
  const auto field = request.value("prompt");
  if (!field) fail_at("prompt", "prompt is missing, expected a string or an array");
  const auto elements = field->elements();
  const bool several = !elements.empty() && elements.front().type() != kind::integer;
  if (!several) return {read_prompt(*field, "prompt", limits)};
  if (elements.size() > limits.num_prompts_max)
    fail_at("prompt", fmt::format("prompt has {} prompts, at most {} are allowed", elements.size(),
                                  limits.num_prompts_max));
  std::vector<text_prompt> prompts;
  for (size_t i = 0; i < elements.size(); ++i)
    prompts.push_back(read_prompt(elements[i], fmt::format("prompt[{}]", i), limits));
  return prompts;
}

text_request read_text_request(object_reader& request, const api_limits& limits) {
  text_request parsed;
  parsed.options = read_generation_options(request, limits);
  request.refuse({"suffix"}, "unsupported_parameter");
  // Here `logprobs` counts alternatives, and 0 asks for the sampled token's alone.
  const auto logprobs = request.integer("logprobs", {0, limits.top_logprobs_max});
  parsed.options.sampling.num_logprobs = static_cast<int32_t>(logprobs.value_or(-1));
  parsed.prompts = read_prompts(request, limits);
  check_answer_size(parsed.options,
                    parsed.options.num_choices * static_cast<int32_t>(parsed.prompts.size()),
                    limits);
  parsed.options.warnings = unknown_field_warnings(request);
  return parsed;
}

tokenize_request read_tokenize_request(object_reader& request, const api_limits& limits) {
  tokenize_request parsed;
  served_model_name(request.string("model").value_or(""), limits);
  parsed.with_strings = request.boolean("return_token_strs").value_or(false) ||
                        request.boolean("with_pieces").value_or(false);
  for (const auto* key : {"prompt", "content"})
    if (const auto text = request.string(key)) {
      parsed.input = std::string(*text);
      return parsed;
    }
  chat_request conversation;
  read_conversation(request, limits, conversation);
  parsed.input = std::move(conversation);
  return parsed;
}

detokenize_request read_detokenize_request(object_reader& request, const api_limits& limits) {
  served_model_name(request.string("model").value_or(""), limits);
  const auto tokens = request.array("tokens", std::numeric_limits<size_t>::max());
  if (!tokens) fail_at("tokens", "tokens is missing, expected an array of token ids");
  return {read_ids(*tokens, "tokens", limits, limits.max_model_len)};
}

}  // namespace

std::variant<text_request, api_error> parse_text_request(std::string_view body,
                                                         const api_limits& limits) {
  return parse_body<text_request>(
      body, [&](object_reader& request) { return read_text_request(request, limits); });
}

std::variant<tokenize_request, api_error> parse_tokenize_request(std::string_view body,
                                                                 const api_limits& limits) {
  return parse_body<tokenize_request>(
      body, [&](object_reader& request) { return read_tokenize_request(request, limits); });
}

std::variant<detokenize_request, api_error> parse_detokenize_request(std::string_view body,
                                                                     const api_limits& limits) {
  return parse_body<detokenize_request>(
      body, [&](object_reader& request) { return read_detokenize_request(request, limits); });
}

}  // namespace troupe::http
