#include "actors/http/json_text.hpp"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <iterator>

namespace troupe::http {

namespace {

/// What a lead byte announces: the length of its character and the range of its second byte, which
/// excludes overlong forms, surrogates and values over U+10FFFF. Source: Unicode 15, table 3-7.
struct lead_rule {
  uint8_t length = 0;
  uint8_t second_min = 0x80;
  uint8_t second_max = 0xBF;
};

constexpr lead_rule rule_of(unsigned char lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {0};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

/// How many leading bytes of `text` follow the rule of its first byte.
size_t matching_prefix(std::string_view text, lead_rule rule) {
  size_t count = 1;
  while (count < rule.length && count < text.size()) {
    const auto byte = static_cast<unsigned char>(text[count]);
    const auto low = count == 1 ? rule.second_min : uint8_t{0x80};
    const auto high = count == 1 ? rule.second_max : uint8_t{0xBF};
    if (byte < low || byte > high) break;
    ++count;
  }
  return count;
}

bool needs_no_care(char c) {
  return static_cast<unsigned char>(c) >= 0x20 && static_cast<unsigned char>(c) < 0x80 &&
         c != '"' && c != '\\';
}

void append_escaped(std::string& out, char c) {
  switch (c) {
    case '"':
      out += "\\\"";
      return;
    case '\\':
      out += "\\\\";
      return;
    case '\n':
      out += "\\n";
      return;
    case '\r':
      out += "\\r";
      return;
    case '\t':
      out += "\\t";
      return;
    default:
      fmt::format_to(std::back_inserter(out), "\\u{:04x}", static_cast<unsigned char>(c));
  }
}

}  // namespace

size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const auto rule = rule_of(static_cast<unsigned char>(text.front()));
  if (rule.length == 0) return 0;
  return matching_prefix(text, rule) == rule.length ? rule.length : 0;
}

size_t utf8_invalid_length(std::string_view text) {
  const auto rule = rule_of(static_cast<unsigned char>(text.front()));
  return rule.length == 0 ? 1 : matching_prefix(text, rule);
}

void append_text(std::string& out, std::string_view bytes) {
  out += '"';
  size_t at = 0;
  while (at < bytes.size()) {
    size_t plain = at;
    while (plain < bytes.size() && needs_no_care(bytes[plain])) ++plain;
    out += bytes.substr(at, plain - at);
    at = plain;
    if (at == bytes.size()) break;
    const auto rest = bytes.substr(at);
    const auto length = utf8_length(rest);
    if (length > 1) {
      out += rest.substr(0, length);
      at += length;
    } else if (length == 1) {
      append_escaped(out, rest.front());
      ++at;
    } else {
      out += "\xEF\xBF\xBD";
      at += utf8_invalid_length(rest);
    }
  }
  out += '"';
}

void append_byte_array(std::string& out, std::string_view bytes) {
  out += '[';
  for (size_t i = 0; i < bytes.size(); ++i) {
    if (i > 0) out += ',';
    fmt::format_to(std::back_inserter(out), "{}", static_cast<unsigned char>(bytes[i]));
  }
  out += ']';
}

void append_logprob(std::string& out, float value) {
  constexpr float impossible = -9999;
  fmt::format_to(std::back_inserter(out), "{}", std::isfinite(value) ? value : impossible);
}

}  // namespace troupe::http
