#include "actors/http/logprob_text.hpp"

#include "actors/http/json_text.hpp"

#include <fmt/format.h>

#include <iterator>

namespace troupe::http {

namespace {

void append_name(std::string& out, int32_t token, std::string_view bytes,
                 const logprob_style& style) {
  if (style.tokens_as_ids)
    fmt::format_to(std::back_inserter(out), "\"token_id:{}\"", token);
  else
    append_text(out, bytes);
}

/// `"token":…,"logprob":…,"bytes":[…]`: bytes are exact where the text, cut inside a character,
/// cannot be.
void append_entry(std::string& out, int32_t token, std::string_view bytes, float value,
                  const logprob_style& style) {
  out += R"("token":)";
  append_name(out, token, bytes, style);
  out += R"(,"logprob":)";
  append_logprob(out, value);
  out += R"(,"bytes":)";
  append_byte_array(out, bytes);
}

void separate(std::string& list) {
  if (!list.empty()) list += ',';
}

}  // namespace

void logprob_text::add(const actors::delta_token& token, size_t text_offset,
                       const logprob_style& style) {
  if (style.chat)
    add_chat(token, style);
  else
    add_lists(token, text_offset, style);
}

void logprob_text::add_chat(const actors::delta_token& token, const logprob_style& style) {
  separate(tokens_);
  tokens_ += '{';
  append_entry(tokens_, token.token, token.bytes, token.logprobs.sampled, style);
  tokens_ += R"(,"top_logprobs":[)";
  const auto& tops = token.logprobs;
  for (size_t i = 0; i < tops.top_tokens.size(); ++i) {
    tokens_ += i > 0 ? ",{" : "{";
    append_entry(tokens_, tops.top_tokens[i], style.token_bytes(tops.top_tokens[i]),
                 tops.top_values[i], style);
    tokens_ += '}';
  }
  tokens_ += "]}";
}

void logprob_text::add_lists(const actors::delta_token& token, size_t text_offset,
                             const logprob_style& style) {
  for (auto* list : {&tokens_, &values_, &tops_, &offsets_}) separate(*list);
  append_name(tokens_, token.token, token.bytes, style);
  append_logprob(values_, token.logprobs.sampled);
  fmt::format_to(std::back_inserter(offsets_), "{}", text_offset);
  tops_ += '{';
  const auto& tops = token.logprobs;
  for (size_t i = 0; i < tops.top_tokens.size(); ++i) {
    if (i > 0) tops_ += ',';
    append_name(tops_, tops.top_tokens[i], style.token_bytes(tops.top_tokens[i]), style);
    tops_ += ':';
    append_logprob(tops_, tops.top_values[i]);
  }
  tops_ += '}';
}

void logprob_text::append_to(std::string& out, bool chat) const {
  if (chat)
    out += fmt::format(R"({{"content":[{}],"refusal":null}})", tokens_);
  else
    out += fmt::format(
        R"({{"tokens":[{}],"token_logprobs":[{}],"top_logprobs":[{}],"text_offset":[{}]}})",
        tokens_, values_, tops_, offsets_);
}

void logprob_text::clear() {
  for (auto* list : {&tokens_, &values_, &tops_, &offsets_}) list->clear();
}

}  // namespace troupe::http
