#include "actors/http/answer_parser.hpp"

#include "config/json.hpp"

#include <algorithm>
#include <optional>
#include <utility>

namespace troupe::http {

namespace {

constexpr std::string_view reasoning_end = "</think>";
constexpr std::string_view call_begin = "<tool_call>";
constexpr std::string_view call_end = "</tool_call>";
// A longer call is no call: it must not be held back for ever.
constexpr size_t call_bytes_max = 256 << 10;

/// The call that `text` spells, if it is one: an object with a name and arguments.
std::optional<model::tool_call> parse_call(std::string_view text) {
  try {
    const auto call = config::parse_json(text);
    const auto name = call.find("name");
    if (!name || !name->string() || name->string()->empty()) return std::nullopt;
    const auto arguments = call.find("arguments");
    if (!arguments) return model::tool_call{std::string(*name->string()), "{}"};
    if (arguments->type() != config::json_value::kind::object) return std::nullopt;
    return model::tool_call{std::string(*name->string()), arguments->dump()};
  } catch (const config::json_error&) {
    return std::nullopt;
  }
}

size_t without_trailing_newlines(std::string_view text) {
  return text.find_last_not_of('\n') + 1;  // npos + 1 is 0
}

/// Where the end of `text` begins that may turn out to be newlines and `tag`.
size_t undecided_begin(std::string_view text, std::string_view tag) {
  for (size_t length = std::min(tag.size() - 1, text.size()); length > 0; --length)
    if (tag.starts_with(text.substr(text.size() - length)))
      return without_trailing_newlines(text.substr(0, text.size() - length));
  return without_trailing_newlines(text);
}

}  // namespace

answer_parser::answer_parser(settings what)
    : settings_(what), state_(what.reasoning ? state::reasoning : state::content) {}

std::vector<answer_piece> answer_parser::push(std::string_view text) {
  std::vector<answer_piece> pieces;
  held_ += text;
  while (advance(pieces)) {
  }
  return pieces;
}

std::vector<answer_piece> answer_parser::finish() {
  std::vector<answer_piece> pieces;
  std::string rest = state_ == state::call ? std::string(call_begin) : std::string();
  rest += held_;
  if (state_ == state::call) state_ = state::content;
  held_.clear();
  emit(rest, pieces);
  return pieces;
}

/// Takes one step; false when more text is needed.
bool answer_parser::advance(std::vector<answer_piece>& pieces) {
  switch (state_) {
    case state::reasoning:
      return leave_text(reasoning_end, state::content, pieces);
    case state::content:
      if (settings_.tool_calls) return leave_text(call_begin, state::call, pieces);
      emit(held_, pieces);
      held_.clear();
      return false;
    case state::call:
      return leave_call(pieces);
  }
  return false;
}

bool answer_parser::leave_text(std::string_view tag, state next,
                               std::vector<answer_piece>& pieces) {
  const auto at = held_.find(tag);
  const std::string_view held = held_;
  if (at == std::string::npos) {
    const auto decided = undecided_begin(held, tag);
    emit(held.substr(0, decided), pieces);
    held_.erase(0, decided);
    return false;
  }
  emit(held.substr(0, without_trailing_newlines(held.substr(0, at))), pieces);
  held_.erase(0, at + tag.size());
  state_ = next;
  after_tag_ = true;
  searched_ = 0;
  return true;
}

bool answer_parser::leave_call(std::vector<answer_piece>& pieces) {
  const auto at = held_.find(call_end, searched_);
  if (at == std::string::npos && held_.size() <= call_bytes_max) {
    searched_ = held_.size() - std::min(held_.size(), call_end.size() - 1);
    return false;
  }
  const auto length = at == std::string::npos ? held_.size() : at;
  auto call = at == std::string::npos ? std::nullopt
                                      : parse_call(std::string_view(held_).substr(0, length));
  state_ = state::content;
  if (call) {
    pieces.push_back({answer_piece::kind::tool_call, {}, std::move(*call)});
    after_tag_ = true;
    held_.erase(0, length + call_end.size());
  } else {
    after_tag_ = false;
    const auto end = at == std::string::npos ? length : length + call_end.size();
    emit(std::string(call_begin) + held_.substr(0, end), pieces);
    held_.erase(0, end);
  }
  return !held_.empty();
}

void answer_parser::emit(std::string_view text, std::vector<answer_piece>& pieces) {
  if (after_tag_) text.remove_prefix(std::min(text.find_first_not_of('\n'), text.size()));
  if (text.empty()) return;
  after_tag_ = false;
  const auto kind =
      state_ == state::reasoning ? answer_piece::kind::reasoning : answer_piece::kind::content;
  if (!pieces.empty() && pieces.back().what == kind)
    pieces.back().text += text;
  else
    pieces.push_back({kind, std::string(text), {}});
}

}  // namespace troupe::http
