#pragma once

#include "actors/http/api_limits.hpp"
#include "config/engine_config.hpp"
#include "model/tokenizer/chat.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace troupe::http {

/// The model behind the API: what requests may ask of it and how its answers are read.
struct served_model {
  api_limits limits;
  std::string root;  // what /v1/models calls it: benchmarks look for a tokenizer there
  model::template_kind kind = model::template_kind::instruct;
  std::function<std::string_view(int32_t)> token_bytes;  // safe on the network thread
  uint64_t seed = 0;                                     // of requests that bring none
  int32_t block_size = 16;                               // tokens per KV block, for the metrics
};

/// The served model of a configuration and its checkpoint. Keeps `tokenizer` alive.
served_model make_served_model(const config::engine_config& config,
                               const config::checkpoint_config& checkpoint,
                               model::template_kind kind,
                               std::shared_ptr<const model::tokenizer> tokenizer);

}  // namespace troupe::http
