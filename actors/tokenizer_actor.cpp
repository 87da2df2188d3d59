#include "actors/tokenizer_actor.hpp"

#include "actors/errors.hpp"
#include "model/prompt_builder.hpp"

#include <fmt/format.h>

#include <stdexcept>
#include <utility>

namespace troupe::actors {
namespace {

refusal invalid_value(std::string message) { return {400, "invalid_value", std::move(message)}; }

bool is_placeholder(int32_t id, const config::model_config& model) {
  return id == model.image_token_id || id == model.video_token_id;
}

/// Raw ids are text: a placeholder without a picture has no rows to stand for.
std::optional<refusal> check_ids(const std::vector<int32_t>& ids, const tokenizer_options& options) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (!options.tokenizer->exists(ids[i]))
      return invalid_value(fmt::format("prompt token {} is {}, expected an id of the vocabulary of {}",
                                       i, ids[i], options.tokenizer->size()));
    if (is_placeholder(ids[i], options.checkpoint->model))
      return invalid_value(fmt::format(
          "prompt token {} is the placeholder {} of a picture, which raw token ids cannot bring", i,
          ids[i]));
  }
  return std::nullopt;
}

plan::prompt prompt_of(const completion_request& request, const tokenizer_options& options) {
  if (request.prompt_ids.empty())
    return model::build_prompt(request.chat, options.kind, request.media, *options.tokenizer,
                               *options.checkpoint);
  plan::prompt prompt;
  prompt.token_ids = request.prompt_ids;
  plan::assign_positions(prompt);
  return prompt;
}

caf::result<prompt_prepared> prepare(const completion_request& request,
                                     const tokenizer_options& options) {
  return guarded<prompt_prepared>([&]() -> prompt_prepared {
    if (auto refused = check_ids(request.prompt_ids, options)) return {nullptr, std::move(refused)};
    try {
      return {std::make_shared<const plan::prompt>(prompt_of(request, options)), std::nullopt};
    } catch (const std::logic_error& mistake) {  // a conversation that contradicts itself or is too long
      return {nullptr, invalid_value(mistake.what())};
    }
  });
}

tokenized encode(const tokenize_text& message, const tokenizer_options& options) {
  try {
    if (message.conversation != nullptr)
      return {prompt_of(*message.conversation, options).token_ids, {}};
    tokenized reply;
    options.tokenizer->encode_text(message.text, reply.ids);
    return reply;
  } catch (const std::exception& mistake) {
    return {{}, mistake.what()};
  }
}

detokenized decode(const std::vector<int32_t>& ids, const tokenizer_options& options) {
  for (size_t i = 0; i < ids.size(); ++i)
    if (!options.tokenizer->exists(ids[i]))
      return {{}, fmt::format("token {} is {}, expected an id of the vocabulary of {}", i, ids[i],
                              options.tokenizer->size())};
  return {options.tokenizer->decode(ids, false), {}};
}

}  // namespace

tokenizer_actor::behavior_type tokenizer(tokenizer_actor::pointer, tokenizer_options options) {
  const auto shared = std::make_shared<const tokenizer_options>(std::move(options));
  return {
      [shared](const prepare_prompt& message) { return prepare(*message.request, *shared); },
      [shared](const tokenize_text& message) { return encode(message, *shared); },
      [shared](const detokenize_ids& message) { return decode(message.ids, *shared); },
  };
}

std::vector<uint8_t> sampling_mask(const model::tokenizer& tokenizer,
                                   const config::model_config& model) {
  std::vector<uint8_t> mask(static_cast<size_t>(model.text.vocab_size), 0);
  for (int32_t id = 0; id < model.text.vocab_size; ++id)
    mask[static_cast<size_t>(id)] = tokenizer.exists(id) ? 1 : 0;
  for (const int32_t sentinel : {model.image_token_id, model.video_token_id,
                                 model.vision_start_token_id, model.vision_end_token_id})
    if (sentinel >= 0 && sentinel < model.text.vocab_size) mask[static_cast<size_t>(sentinel)] = 0;
  return mask;
}

}  // namespace troupe::actors
