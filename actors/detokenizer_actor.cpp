#include "actors/detokenizer_actor.hpp"

#include "config/ensure.hpp"

#include <utility>

namespace troupe::actors {
namespace {

using scheduling::end_reason;
using self_pointer = detokenizer_actor::stateful_pointer<detokenizer_state>;

void send_delta(self_pointer self, text_delta delta) {
  if (!delta.text.empty() || !delta.tokens.empty())
    self->send(self->state.options.gateway, std::move(delta));
}

void take_token(self_pointer self, const scheduling::token_generated& generated) {
  const auto found = self->state.streams.find(generated.id);
  if (found == self->state.streams.end()) return;
  auto& [text, canceller] = found->second;
  if (text.stopped()) return;
  config::ensure(generated.index == text.num_tokens(), "request {} got token {}, expected token {}",
                 generated.id, generated.index, text.num_tokens());
  auto delta = text.push(generated.token, generated.logprobs);
  delta.usage = generated.usage;
  send_delta(self, std::move(delta));
  if (text.stopped()) self->send(canceller, cancel_request{generated.id});
}

/// What a stopped answer cost: the planner may have computed tokens behind the stop text.
scheduling::usage_counts usage_of(const generated_text& text, scheduling::usage_counts usage) {
  if (text.stopped()) usage.completion_tokens = text.num_tokens();
  return usage;
}

void take_end(self_pointer self, const scheduling::request_ended& ended) {
  const auto found = self->state.streams.find(ended.id);
  if (found == self->state.streams.end()) return;
  auto text = std::move(found->second.text);
  self->state.streams.erase(found);
  const auto& gateway = self->state.options.gateway;

  const auto usage = usage_of(text, ended.usage);
  if (ended.reason == end_reason::stop || ended.reason == end_reason::length) {
    auto delta = text.finish();
    delta.usage = usage;
    send_delta(self, std::move(delta));
  }
  const auto reason = text.stopped() ? end_reason::stop : ended.reason;
  switch (reason) {
    case end_reason::stop:
      self->send(gateway, request_finished{ended.id, finish_reason::stop, usage});
      break;
    case end_reason::length:
      self->send(gateway, request_finished{ended.id, finish_reason::length, usage});
      break;
    case end_reason::cancelled: self->send(gateway, request_cancelled{ended.id}); break;
    case end_reason::failed:
      self->send(gateway, request_failed{ended.id, 500, "engine_error", ended.detail});
      break;
    case end_reason::deadline:
      self->send(gateway, request_failed{ended.id, 408, "deadline_exceeded",
                                         "the request did not end before its deadline"});
      break;
  }
}

}  // namespace

detokenizer_actor::behavior_type detokenizer(self_pointer self, detokenizer_options options) {
  self->state.options = std::move(options);
  return {
      [self](const open_stream& stream) {
        self->state.streams.insert_or_assign(
            stream.request->id,
            detokenizer_state::stream{
                generated_text(stream.request, *self->state.options.tokenizer), stream.canceller});
      },
      [self](const generation_progress& progress) {
        for (const auto& generated : progress.tokens) take_token(self, generated);
        for (const auto& ended : progress.ended) take_end(self, ended);
      },
  };
}

}  // namespace troupe::actors
