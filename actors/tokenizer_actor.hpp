#pragma once

#include "actors/engine_messages.hpp"
#include "config/model_config.hpp"
#include "model/tokenizer/chat.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <caf/typed_event_based_actor.hpp>

#include <memory>

namespace troupe::actors {

struct tokenizer_options {
  std::shared_ptr<const model::tokenizer> tokenizer;
  std::shared_ptr<const config::checkpoint_config> checkpoint;
  model::template_kind kind = model::template_kind::instruct;
};

/// Renders conversations, encodes and decodes text. Long texts take their time: spawned detached.
tokenizer_actor::behavior_type tokenizer(tokenizer_actor::pointer self, tokenizer_options options);

/// [vocab] 1 where sampling may take the token: ids that have one, without the vision sentinels, which only
/// the template may write.
std::vector<uint8_t> sampling_mask(const model::tokenizer& tokenizer,
                                   const config::model_config& model);

}  // namespace troupe::actors
