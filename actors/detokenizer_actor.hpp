#pragma once

#include "actors/engine_messages.hpp"
#include "actors/generated_text.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <memory>
#include <unordered_map>

namespace troupe::actors {

struct detokenizer_options {
  std::shared_ptr<const model::tokenizer> tokenizer;
  inner_gateway_actor gateway;
};

/// Turns the scheduler's tokens into whole text for the gateway, and ends a request whose stop text was
/// met: from then on its tokens have no effect, and its end is reported as `stop`.
struct detokenizer_state {
  struct stream {
    generated_text text;
    request_canceller canceller;
  };
  detokenizer_options options;
  std::unordered_map<request_id, stream> streams;
  static inline const char* name = "detokenizer";
};

detokenizer_actor::behavior_type detokenizer(
    detokenizer_actor::stateful_pointer<detokenizer_state> self, detokenizer_options options);

}  // namespace troupe::actors
