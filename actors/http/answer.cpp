#include "actors/http/answer.hpp"

#include "actors/http/json_text.hpp"
#include "config/ensure.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <iterator>
#include <utility>

namespace troupe::http {

namespace {

constexpr std::string_view done_frame = "data: [DONE]\n\n";

std::string common_fields(const answer_options& options, std::string_view object) {
  std::string fields = R"("id":)";
  append_text(fields, options.id);
  fields += fmt::format(R"(,"object":"{}","created":{},"model":)", object, options.created);
  append_text(fields, options.model);
  return fields;
}

std::string_view chunk_object(const answer_options& options) {
  return options.chat ? "chat.completion.chunk" : "text_completion";
}

}  // namespace

void append_usage(std::string& out, const answer_usage& usage) {
  fmt::format_to(
      std::back_inserter(out),
      R"({{"prompt_tokens":{},"completion_tokens":{},"total_tokens":{},)"
      R"("prompt_tokens_details":{{"cached_tokens":{},"image_tokens":{},"text_tokens":{}}},)"
      R"("completion_tokens_details":{{"reasoning_tokens":{}}}}})",
      usage.prompt_tokens, usage.completion_tokens, usage.prompt_tokens + usage.completion_tokens,
      usage.cached_tokens, usage.visual_tokens, usage.prompt_tokens - usage.visual_tokens,
      usage.reasoning_tokens);
}

answer::answer(answer_options options)
    : options_(std::move(options)),
      frame_prefix_("data: {" + common_fields(options_, chunk_object(options_)) +
                    ",\"choices\":[") {
  for (int32_t i = 0; i < options_.num_choices; ++i) choices_.emplace_back(options_.parsing);
}

void answer::push(int32_t index, const actors::text_delta& delta) {
  auto& choice = choices_.at(static_cast<size_t>(index));
  config::ensure(!choice.reason, "choice {} got text after its end", index);
  started_ = true;
  if (choice.parser.in_reasoning())
    choice.usage.reasoning_tokens += static_cast<int64_t>(delta.tokens.size());
  note_usage(index, delta.usage);
  add_tokens(choice, delta);
  add_pieces(choice, choice.parser.push(delta.text));
  choice.text_length += delta.text.size();
}

void answer::finish(int32_t index, actors::finish_reason reason,
                    const scheduling::usage_counts& usage) {
  auto& choice = choices_.at(static_cast<size_t>(index));
  config::ensure(!choice.reason, "choice {} ended twice", index);
  started_ = true;
  add_pieces(choice, choice.parser.finish());
  choice.reason = reason;
  ++num_finished_;
  note_usage(index, usage);
  usage_.completion_tokens += usage.completion_tokens;
  usage_.reasoning_tokens += choice.usage.reasoning_tokens;
  if (index % options_.choices_per_prompt != 0) return;
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  usage_.visual_tokens += usage.visual_tokens;
}

void answer::note_usage(int32_t index, const scheduling::usage_counts& usage) {
  const int32_t first = index - index % options_.choices_per_prompt;
  for (int32_t i = first; i < first + options_.choices_per_prompt; ++i) {
    auto& known = choices_[static_cast<size_t>(i)].usage;
    if (i != index && known.prompt_tokens > 0) continue;  // else it opens before its own first token
    known.prompt_tokens = usage.prompt_tokens;
    known.visual_tokens = usage.visual_tokens;
    if (i != index) continue;
    known.cached_tokens = usage.cached_tokens;
    known.completion_tokens = usage.completion_tokens;
  }
}

void answer::add_pieces(choice_state& choice, std::vector<answer_piece> pieces) {
  for (auto& piece : pieces) {
    pending_bytes_ += piece.text.size() + piece.call.arguments.size();
    switch (piece.what) {
      case answer_piece::kind::content:
        choice.content += piece.text;
        break;
      case answer_piece::kind::reasoning:
        choice.reasoning += piece.text;
        break;
      case answer_piece::kind::tool_call:
        choice.called = true;
        choice.calls.push_back(std::move(piece.call));
    }
  }
}

void answer::add_tokens(choice_state& choice, const actors::text_delta& delta) {
  auto offset = choice.text_length;
  for (const auto& token : delta.tokens) {
    if (options_.logprobs) {
      const auto before = choice.logprobs.bytes();
      choice.logprobs.add(token, offset, options_.style);
      pending_bytes_ += choice.logprobs.bytes() - before;
      offset += token.bytes.size();
    }
    if (options_.return_token_ids) {
      if (!choice.token_ids.empty()) choice.token_ids += ',';
      choice.token_ids += fmt::to_string(token.token);
    }
  }
}

bool answer::has_frames() const {
  if (!started_ || done_sent_) return false;
  if (!opened_ || finished()) return true;
  for (const auto& choice : choices_)
    if (choice.has_delta() || !choice.calls.empty() || (choice.reason && !choice.end_sent))
      return true;
  return false;
}

void answer::take_frames(std::string& out) {
  if (!has_frames()) return;
  open_choices(out);
  for (int32_t i = 0; i < options_.num_choices; ++i) append_frames(out, i);
  pending_bytes_ = 0;
  if (!finished()) return;
  if (options_.include_usage) append_usage_frame(out);
  out += done_frame;
  done_sent_ = true;
}

void answer::append_failure(std::string& out, const api_error& error) {
  out += "data: {";
  append_error(out, error);
  out += "}\n\n";
  out += done_frame;
}

/// Clients read the time to the first token off the first chunk with choices: it leaves with that
/// token, not before.
void answer::open_choices(std::string& out) {
  if (std::exchange(opened_, true) || !options_.chat) return;
  for (int32_t i = 0; i < options_.num_choices; ++i) {
    begin_frame(out, i);
    out += R"("delta":{"role":"assistant","content":""})";
    append_prompt_ids(out, i);
    end_frame(out, i, nullptr, "");
  }
}

void answer::append_frames(std::string& out, int32_t index) {
  auto& choice = choices_[static_cast<size_t>(index)];
  if (choice.has_delta()) append_delta_frame(out, index);
  if (!choice.calls.empty()) append_call_frame(out, index);
  if (choice.reason && !choice.end_sent) append_end_frame(out, index);
}

void answer::append_delta_frame(std::string& out, int32_t index) {
  auto& choice = choices_[static_cast<size_t>(index)];
  begin_frame(out, index);
  if (options_.chat) {
    out += R"("delta":{)";
    if (!choice.reasoning.empty()) {
      out += R"("reasoning_content":)";
      append_text(out, choice.reasoning);
    }
    if (!choice.content.empty() || choice.reasoning.empty()) {
      out += choice.reasoning.empty() ? R"("content":)" : R"(,"content":)";
      append_text(out, choice.content);
    }
    out += '}';
  } else {
    out += R"("text":)";
    append_text(out, choice.content);
  }
  end_frame(out, index, &choice, "");
  choice.content.clear();
  choice.reasoning.clear();
  choice.logprobs.clear();
  choice.token_ids.clear();
}

void answer::append_call_frame(std::string& out, int32_t index) {
  auto& choice = choices_[static_cast<size_t>(index)];
  begin_frame(out, index);
  out += R"("delta":{"tool_calls":[)";
  for (size_t i = 0; i < choice.calls.size(); ++i) {
    if (i > 0) out += ',';
    append_call(out, choice.calls[i], index, choice.num_calls_sent++);
  }
  out += "]}";
  end_frame(out, index, nullptr, "");
  choice.calls.clear();
}

void answer::append_end_frame(std::string& out, int32_t index) {
  auto& choice = choices_[static_cast<size_t>(index)];
  begin_frame(out, index);
  out += options_.chat ? R"("delta":{})" : R"("text":"")";
  end_frame(out, index, nullptr, reason_name(choice));
  choice.end_sent = true;
}

void answer::append_usage_frame(std::string& out) const {
  out += frame_prefix_;
  out += R"(],"usage":)";
  append_usage(out, usage_);
  out += "}\n\n";
}

void answer::begin_frame(std::string& out, int32_t index) const {
  out += frame_prefix_;
  fmt::format_to(std::back_inserter(out), R"({{"index":{},)", index);
}

void answer::end_frame(std::string& out, int32_t index, const choice_state* source,
                       std::string_view reason) const {
  append_extras(out, source);
  if (reason.empty())
    out += R"(,"finish_reason":null}])";
  else
    fmt::format_to(std::back_inserter(out), R"(,"finish_reason":"{}"}}])", reason);
  if (options_.continuous_usage) {
    out += R"(,"usage":)";
    append_usage(out, choices_[static_cast<size_t>(index)].usage);
  }
  out += "}\n\n";
}

/// Log-probabilities and token ids; `source` is null where a choice has none to give.
void answer::append_extras(std::string& out, const choice_state* source) const {
  out += R"(,"logprobs":)";
  if (source != nullptr && !source->logprobs.empty())
    source->logprobs.append_to(out, options_.chat);
  else
    out += "null";
  if (source != nullptr && options_.return_token_ids)
    fmt::format_to(std::back_inserter(out), R"(,"token_ids":[{}])", source->token_ids);
}

void answer::append_prompt_ids(std::string& out, int32_t index) const {
  const auto prompt = static_cast<size_t>(index / options_.choices_per_prompt);
  if (prompt < prompt_ids_.size())
    fmt::format_to(std::back_inserter(out), R"(,"prompt_token_ids":[{}])",
                   fmt::join(prompt_ids_[prompt], ","));
}

/// Id, type and name come once, with the first piece of a call; ours is its only piece.
void answer::append_call(std::string& out, const model::tool_call& call, int32_t choice,
                         int32_t call_index) const {
  fmt::format_to(std::back_inserter(out), R"({{"index":{},"id":"call_{}_{}_{}",)", call_index,
                 options_.id.substr(options_.id.find('-') + 1), choice, call_index);
  out += R"("type":"function","function":{"name":)";
  append_text(out, call.name);
  out += R"(,"arguments":)";
  append_text(out, call.arguments);
  out += "}}";
}

std::string_view answer::reason_name(const choice_state& choice) const {
  if (choice.reason == actors::finish_reason::length) return "length";
  return choice.called ? "tool_calls" : "stop";
}

void answer::append_message(std::string& out, int32_t index) const {
  const auto& choice = choices_[static_cast<size_t>(index)];
  if (!options_.chat) {
    out += R"("text":)";
    append_text(out, choice.content);
    return;
  }
  out += R"("message":{"role":"assistant","content":)";
  if (choice.content.empty() && choice.called)
    out += "null";
  else
    append_text(out, choice.content);
  out += R"(,"refusal":null)";
  if (!choice.reasoning.empty()) {
    out += R"(,"reasoning_content":)";
    append_text(out, choice.reasoning);
  }
  if (choice.called) {
    out += R"(,"tool_calls":[)";
    for (size_t i = 0; i < choice.calls.size(); ++i) {
      if (i > 0) out += ',';
      append_call(out, choice.calls[i], index, static_cast<int32_t>(i));
    }
    out += ']';
  }
  out += '}';
}

std::string answer::body() const {
  config::ensure(finished() && !opened_, "the body of an answer is written once, at its end");
  std::string out =
      "{" + common_fields(options_, options_.chat ? "chat.completion" : "text_completion");
  out += R"(,"choices":[)";
  for (int32_t i = 0; i < options_.num_choices; ++i) {
    const auto& choice = choices_[static_cast<size_t>(i)];
    if (i > 0) out += ',';
    fmt::format_to(std::back_inserter(out), R"({{"index":{},)", i);
    append_message(out, i);
    append_prompt_ids(out, i);
    append_extras(out, &choice);
    fmt::format_to(std::back_inserter(out), R"(,"finish_reason":"{}"}})", reason_name(choice));
  }
  out += R"(],"usage":)";
  append_usage(out, usage_);
  out += R"(,"system_fingerprint":null,"service_tier":null})";
  return out;
}

}  // namespace troupe::http
