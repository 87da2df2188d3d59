#pragma once

#include "actors/messages.hpp"
#include "config/model_config.hpp"

#include <caf/actor_system.hpp>

#include <filesystem>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>

namespace troupe::cli {

/// A request that did not finish: rejected, failed or cancelled, with the engine's words.
class request_error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct answer {
  std::string text;
  actors::finish_reason reason = actors::finish_reason::stop;
  scheduling::usage_counts usage;
  double first_token_seconds = 0;
  double seconds = 0;

  /// Rate after the first token.
  double tokens_per_second() const;
  /// "412 tokens in, 37 out, first after 0.08 s, 96.1 tokens/s"
  std::string summary() const;
};

/// Sends one request and blocks until it ends; `on_text` gets each piece of text as it arrives.
/// Throws request_error.
answer ask(caf::actor_system& system, const actors::gateway_actor& gateway,
           const std::shared_ptr<const actors::completion_request>& request,
           const std::function<void(std::string_view)>& on_text);

/// A picture file as a media item; only its header is read. Throws std::runtime_error naming the
/// file.
model::media_item load_picture(const std::filesystem::path& file,
                               const config::preprocessor_config& preprocessor);

/// A user's turn: the media with these indices, then the text.
model::chat_message user_turn(std::string text, int32_t first_media, int32_t num_media);
model::chat_message assistant_turn(std::string text);

}  // namespace troupe::cli
