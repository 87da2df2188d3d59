#include "actors/cli/conversation.hpp"

#include "actors/cli/elapsed.hpp"
#include "model/vision/media.hpp"

#include <fmt/format.h>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>

#include <chrono>
#include <fstream>
#include <iterator>
#include <utility>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

// An engine reports an end for every request within its deadline; silence for longer means it is
// gone.
constexpr std::chrono::minutes silence_max{15};

}  // namespace

double answer::tokens_per_second() const {
  const double rest = seconds - first_token_seconds;
  return usage.completion_tokens > 1 && rest > 0 ? (usage.completion_tokens - 1) / rest : 0;
}

std::string answer::summary() const {
  return fmt::format(
      "{} tokens in ({} visual, {} cached), {} out, first after {:.3f} s, {:.1f} tokens/s",
      usage.prompt_tokens, usage.visual_tokens, usage.cached_tokens, usage.completion_tokens,
      first_token_seconds, tokens_per_second());
}

answer ask(caf::actor_system& system, const actors::gateway_actor& gateway,
           const std::shared_ptr<const actors::completion_request>& request,
           const std::function<void(std::string_view)>& on_text) {
  caf::scoped_actor self{system};
  const auto begin = clock::now();
  self->send(gateway, actors::submit_request{request, caf::actor_cast<caf::actor>(self)});

  answer result;
  std::string problem;
  bool ended = false;
  while (!ended) {
    ended = true;
    self->receive(
        [&](const actors::text_delta& delta) {
          if (result.first_token_seconds == 0) result.first_token_seconds = seconds_since(begin);
          result.text += delta.text;
          if (!delta.text.empty()) on_text(delta.text);
          ended = false;
        },
        [&](const actors::request_finished& end) {
          result.reason = end.reason;
          result.usage = end.usage;
        },
        [&](const actors::request_rejected& end) { problem = end.message; },
        [&](const actors::request_failed& end) { problem = end.message; },
        [&](const actors::request_cancelled&) { problem = "the request was cancelled"; },
        caf::after(silence_max) >> [&] { problem = "the engine went silent"; });
  }
  if (!problem.empty()) throw request_error(problem);
  result.seconds = seconds_since(begin);
  return result;
}

model::media_item load_picture(const std::filesystem::path& file,
                               const config::preprocessor_config& preprocessor) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) throw std::runtime_error(fmt::format("{}: cannot be opened", file.string()));
  auto bytes = std::make_shared<const std::string>(std::istreambuf_iterator<char>(stream),
                                                   std::istreambuf_iterator<char>());
  try {
    return model::make_picture(std::move(bytes), preprocessor);
  } catch (const model::image_error& problem) {
    throw std::runtime_error(fmt::format("{}: {}", file.string(), problem.what()));
  }
}

model::chat_message user_turn(std::string text, int32_t first_media, int32_t num_media) {
  model::chat_message message;
  for (int32_t i = 0; i < num_media; ++i)
    message.content.push_back(model::media_part{first_media + i, false});
  message.content.push_back(model::text_part{std::move(text)});
  return message;
}

model::chat_message assistant_turn(std::string text) {
  model::chat_message message;
  message.role = model::chat_role::assistant;
  message.content.push_back(model::text_part{std::move(text)});
  return message;
}

}  // namespace troupe::cli
