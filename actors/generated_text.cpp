#include "actors/generated_text.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace troupe::actors {

std::optional<stop_match> find_stop(std::string_view text, const std::vector<std::string>& stops) {
  std::optional<stop_match> first;
  for (const auto& stop : stops) {
    if (stop.empty()) continue;
    const size_t begin = text.find(stop);
    if (begin == std::string_view::npos) continue;
    const stop_match found{begin, begin + stop.size()};
    if (!first || found.end < first->end || (found.end == first->end && found.begin < first->begin))
      first = found;
  }
  return first;
}

size_t held_length(std::string_view text, const std::vector<std::string>& stops) {
  size_t longest = 0;
  for (const auto& stop : stops) {
    if (stop.empty()) continue;
    for (size_t length = std::min(text.size(), stop.size() - 1); length > longest; --length) {
      if (text.ends_with(std::string_view(stop).substr(0, length))) longest = length;
    }
  }
  return longest;
}

generated_text::generated_text(std::shared_ptr<const completion_request> request,
                               const model::tokenizer& tokenizer)
    : request_(std::move(request)),
      tokenizer_(&tokenizer),
      detokenizer_(tokenizer, request_->skip_special_tokens) {}

text_delta generated_text::push(int32_t token, plan::token_logprobs logprobs) {
  if (stopped_) return {request_->id, {}, {}};
  ++num_tokens_;
  held_tokens_.push_back({{token, std::string(tokenizer_->token_bytes(token)), std::move(logprobs)},
                          std::ssize(held_text_), std::ssize(held_text_), true});
  append(detokenizer_.push(token));
  return advance(false);
}

text_delta generated_text::finish() {
  if (stopped_) return {request_->id, {}, {}};
  append(detokenizer_.finish());
  return advance(true);
}

void generated_text::append(const std::string& text) {
  if (text.empty()) return;
  held_text_ += text;
  for (auto held = held_tokens_.rbegin(); held != held_tokens_.rend() && held->open; ++held) {
    held->text_end = std::ssize(held_text_);
    held->open = false;
  }
}

text_delta generated_text::advance(bool ending) {
  if (const auto match = find_stop(held_text_, request_->stop)) {
    stopped_ = true;
    cut_at(request_->include_stop_text ? match->end : match->begin);
    return release(held_text_.size(), true);
  }
  const size_t held = ending ? 0 : held_length(held_text_, request_->stop);
  return release(held_text_.size() - held, ending || request_->stop.empty());
}

void generated_text::cut_at(size_t kept_length) {
  const auto kept = static_cast<ptrdiff_t>(kept_length);
  while (!held_tokens_.empty() &&
         (held_tokens_.back().open || held_tokens_.back().text_begin >= kept))
    held_tokens_.pop_back();
  if (!held_tokens_.empty() && held_tokens_.back().text_end > kept) {
    // Only the last token that gave text of its own can reach over the cut: trim what lies behind it.
    auto& bytes = held_tokens_.back().token.bytes;
    const auto behind = std::string_view(held_text_).substr(
        kept_length, static_cast<size_t>(held_tokens_.back().text_end - kept));
    if (bytes.ends_with(behind))
      bytes.resize(bytes.size() - behind.size());
    else
      bytes.clear();
  }
  held_text_.resize(kept_length);
}

text_delta generated_text::release(size_t text_length, bool everything) {
  text_delta delta{request_->id, held_text_.substr(0, text_length), {}};
  held_text_.erase(0, text_length);
  const auto released = static_cast<ptrdiff_t>(text_length);
  while (!held_tokens_.empty() &&
         (everything || (!held_tokens_.front().open && held_tokens_.front().text_end <= released))) {
    delta.tokens.push_back(std::move(held_tokens_.front().token));
    held_tokens_.pop_front();
  }
  for (auto& held : held_tokens_) {
    held.text_begin -= released;
    held.text_end -= released;
  }
  return delta;
}

}  // namespace troupe::actors
