#include "tests/http/fake_gateway.hpp"

#include "actors/http/json_text.hpp"

#include <fmt/format.h>
#include <caf/event_based_actor.hpp>
#include <caf/send.hpp>
#include <caf/stateful_actor.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <map>
#include <optional>
#include <random>
#include <string_view>
#include <utility>

namespace troupe::tests {

namespace {

using namespace actors;
using tick_atom = caf::atom_constant<caf::atom("tick")>;

std::string all_text(const completion_request& request) {
  if (!request.prompt_ids.empty())
    return std::string(request.prompt_ids.begin(), request.prompt_ids.end());
  std::string text;
  for (const auto& message : request.chat.messages)
    for (const auto& part : message.content)
      if (const auto* piece = std::get_if<model::text_part>(&part)) text += piece->text;
  return text;
}

std::string last_text(const completion_request& request) {
  if (!request.prompt_ids.empty()) return all_text(request);
  std::string text;
  for (const auto& part : request.chat.messages.back().content)
    if (const auto* piece = std::get_if<model::text_part>(&part)) text += piece->text;
  return text;
}

/// The argument of `[name argument]` in `text`.
std::optional<std::string> directive(const std::string& text, const std::string& name) {
  const auto begin = text.find("[" + name);
  if (begin == std::string::npos) return std::nullopt;
  const auto end = text.find(']', begin);
  auto argument = text.substr(begin + name.size() + 1, end - begin - name.size() - 1);
  if (argument.starts_with(' ')) argument.erase(0, 1);
  return argument;
}

int32_t number(const std::string& text, const std::string& name, int32_t otherwise) {
  const auto argument = directive(text, name);
  int32_t value = otherwise;
  if (argument) std::from_chars(argument->data(), argument->data() + argument->size(), value);
  return value;
}

std::string answer_of(const completion_request& request, const std::string& prompt) {
  std::string answer;
  if (const auto said = directive(prompt, "say")) {
    answer = *said;
  } else if (directive(prompt, "random")) {
    std::mt19937_64 random(request.sampling.seed);
    for (int i = 0; i < 12; ++i) answer += static_cast<char>('a' + random() % 26);
  } else {
    answer = fmt::format("I see {} media and {} bytes of text.", request.media.size(),
                         all_text(request).size());
  }
  std::string repeated;
  for (int32_t i = number(prompt, "repeat", 1); i > 0; --i) repeated += answer;
  return repeated;
}

struct fake_request {
  std::shared_ptr<const completion_request> request;
  caf::actor sink;
  std::string prompt;
  std::string answer;
  size_t sent = 0;
  finish_reason reason = finish_reason::stop;
  bool paused = false;
  bool ticking = false;

  scheduling::usage_counts usage() const {
    scheduling::usage_counts counts;
    for (const auto& item : request->media) counts.visual_tokens += item.grid.visual_tokens(2);
    counts.prompt_tokens = static_cast<int32_t>(all_text(*request).size()) + counts.visual_tokens;
    counts.completion_tokens = static_cast<int32_t>(sent);
    return counts;
  }
};

/// Applies forbidden tokens, stop texts, max_tokens and ignore_eos to the scripted answer.
void limit_answer(fake_request& fake) {
  const auto& sampling = fake.request->sampling;
  for (const auto& [token, bias] : sampling.logit_bias)
    if (bias <= -100)
      std::replace(fake.answer.begin(), fake.answer.end(), static_cast<char>(token), '#');
  for (const auto& stop : fake.request->stop)
    fake.answer.resize(std::min(fake.answer.find(stop), fake.answer.size()));
  const auto limit = static_cast<size_t>(sampling.max_tokens > 0 ? sampling.max_tokens : 1 << 20);
  while (sampling.ignore_eos && sampling.max_tokens > 0 && fake.answer.size() < limit)
    fake.answer += '.';
  if (fake.answer.size() > limit || sampling.ignore_eos) fake.reason = finish_reason::length;
  fake.answer.resize(std::min(fake.answer.size(), limit));
}

delta_token token_of(char byte, int32_t num_logprobs) {
  delta_token token;
  token.token = static_cast<unsigned char>(byte);
  token.bytes = byte;
  if (num_logprobs >= 0) token.logprobs.sampled = -0.5F;
  for (int32_t i = 0; i < num_logprobs; ++i) {
    token.logprobs.top_tokens.push_back((token.token + i) % 256);
    token.logprobs.top_values.push_back(-0.5F - static_cast<float>(i));
  }
  return token;
}

/// As the real detokenizer: a character's text leaves with its last byte.
text_delta next_delta(fake_request& fake, size_t tokens) {
  text_delta delta;
  delta.id = fake.request->id;
  while (tokens-- > 0 && fake.sent < fake.answer.size()) {
    delta.tokens.push_back(token_of(fake.answer[fake.sent], fake.request->sampling.num_logprobs));
    ++fake.sent;
    size_t begin = fake.sent - 1;
    while (begin > 0 && (static_cast<unsigned char>(fake.answer[begin]) & 0xC0) == 0x80) --begin;
    const auto character = std::string_view(fake.answer).substr(begin, fake.sent - begin);
    if (http::utf8_length(character) == character.size()) delta.text += character;
  }
  delta.usage = fake.usage();
  return delta;
}

struct fake_gateway_state {
  std::map<request_id, fake_request> running;
  std::shared_ptr<fake_engine_state> shared;
};
using fake_self = caf::stateful_actor<fake_gateway_state>;

void end(fake_self* self, request_id id) {
  if (self->state.running.at(id).paused) --self->state.shared->paused;
  self->state.running.erase(id);
  --self->state.shared->running;
}

constexpr int32_t hold_interval_ms = 2;

bool is_held(fake_self* self, const fake_request& fake) {
  return fake.sent > 0 && directive(fake.prompt, "hold") && !self->state.shared->released;
}

void schedule(fake_self* self, fake_request& fake) {
  fake.ticking = true;
  const bool held = is_held(self, fake);
  const auto delay = held ? hold_interval_ms : number(fake.prompt, "delay", 0);
  if (delay == 0)
    self->send(self, tick_atom::value, fake.request->id);
  else
    self->delayed_send(self, std::chrono::milliseconds(delay), tick_atom::value, fake.request->id);
}

void submit(fake_self* self, const submit_request& command) {
  fake_request fake{command.request, command.sink, last_text(*command.request), {}};
  const auto id = command.request->id;
  ++self->state.shared->submitted;
  if (const auto status = number(fake.prompt, "reject", 0); status != 0) {
    self->send(fake.sink, request_rejected{id, status, "queue_full", "the queue is full", 1500});
    return;
  }
  fake.answer = answer_of(*fake.request, fake.prompt);
  limit_answer(fake);
  ++self->state.shared->running;
  if (!directive(fake.prompt, "silent")) schedule(self, fake);
  self->state.running.emplace(id, std::move(fake));
}

void tick(fake_self* self, request_id id) {
  const auto found = self->state.running.find(id);
  if (found == self->state.running.end()) return;
  auto& fake = found->second;
  fake.ticking = false;
  if (fake.paused) return;
  if (is_held(self, fake)) return schedule(self, fake);
  if (fake.sent > 0 && directive(fake.prompt, "fail")) {
    self->send(fake.sink, request_failed{id, number(fake.prompt, "fail", 500), "engine_error",
                                         "the shard was lost"});
    return end(self, id);
  }
  if (fake.sent < fake.answer.size()) {
    self->send(fake.sink, next_delta(fake, static_cast<size_t>(number(fake.prompt, "burst", 1))));
    return schedule(self, fake);
  }
  self->send(fake.sink, request_finished{id, fake.reason, fake.usage()});
  end(self, id);
}

void cancel(fake_self* self, request_id id) {
  const auto found = self->state.running.find(id);
  if (found == self->state.running.end()) return;
  ++self->state.shared->cancelled;
  self->send(found->second.sink, request_cancelled{id});
  end(self, id);
}

void pause(fake_self* self, request_id id) {
  const auto found = self->state.running.find(id);
  if (found == self->state.running.end() || std::exchange(found->second.paused, true)) return;
  ++self->state.shared->paused;
}

void resume(fake_self* self, request_id id) {
  const auto found = self->state.running.find(id);
  if (found == self->state.running.end() || !std::exchange(found->second.paused, false)) return;
  --self->state.shared->paused;
  if (!found->second.ticking) schedule(self, found->second);
}

tokenized tokenize(const tokenize_text& question) {
  const auto text = question.conversation ? all_text(*question.conversation) : question.text;
  tokenized reply;
  for (const char c : text) reply.ids.push_back(static_cast<unsigned char>(c));
  return reply;
}

engine_status status_of(const fake_engine_state& state) {
  engine_status status;
  status.phase = state.phase;
  if (status.phase == engine_phase::loading) {
    status.detail = "loading weights";
    status.percent = 43;
  }
  status.max_model_len = 4096;
  status.planner.running = state.running;
  status.planner.blocks_total = 100;
  status.planner.blocks_held = 25;
  return status;
}

caf::behavior fake_gateway(fake_self* self, std::shared_ptr<fake_engine_state> shared) {
  self->state.shared = std::move(shared);
  return {
      [self](const submit_request& command) { submit(self, command); },
      [self](const cancel_request& command) { cancel(self, command.id); },
      [self](const pause_request& command) { pause(self, command.id); },
      [self](const resume_request& command) { resume(self, command.id); },
      [self](tick_atom, request_id id) { tick(self, id); },
      [self](const get_status&) { return status_of(*self->state.shared); },
      [](const tokenize_text& question) { return tokenize(question); },
      [](const detokenize_ids& question) {
        return detokenized{std::string(question.ids.begin(), question.ids.end()), {}};
      },
  };
}

}  // namespace

gateway_actor spawn_fake_gateway(caf::actor_system& system,
                                 std::shared_ptr<fake_engine_state> state) {
  return caf::actor_cast<gateway_actor>(system.spawn(fake_gateway, std::move(state)));
}

http::served_model fake_model() {
  static const auto bytes = [] {
    std::array<char, 256> all{};
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<char>(i);
    return all;
  }();
  http::served_model model;
  model.limits.served_names = {"fake", "org/alias"};
  model.limits.max_model_len = 4096;
  model.limits.num_token_ids = 256;
  model.limits.preprocessor.image_min_pixels = 65'536;
  model.limits.preprocessor.image_max_pixels = 16'777'216;
  model.limits.preprocessor.video_min_pixels = 4'096;
  model.limits.preprocessor.video_max_pixels = 25'165'824;
  model.root = "fake";
  model.token_bytes = [](int32_t id) {
    return std::string_view(&bytes.at(static_cast<size_t>(id)), 1);
  };
  return model;
}

test_system_config::test_system_config() {
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", size_t{2});
}

}  // namespace troupe::tests
