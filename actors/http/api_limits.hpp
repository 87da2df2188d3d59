#pragma once

#include "config/model_config.hpp"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace troupe::http {

/// What a request may ask for. Every size read from a request is held against one of these before
/// anything is allocated for it.
struct api_limits {
  // Of the served model.
  std::vector<std::string> served_names;  // the first is the canonical one
  int64_t max_model_len = 0;              // tokens
  int32_t num_token_ids = 0;              // one past the largest id with a token
  config::preprocessor_config preprocessor;
  config::generation_config generation;  // defaults of absent sampling fields

  // Of sampling.
  int32_t num_choices_max = 8;
  int32_t top_logprobs_max = 20;
  size_t num_stop_texts_max = 16;
  size_t stop_text_bytes_max = 512;
  size_t num_token_ids_listed_max = 1024;  // stop_token_ids, logit_bias
  // What all choices of an answer may hold before it is written: tokens and their
  // log-probabilities.
  int64_t answer_bytes_max = int64_t{512} << 20;

  // Of conversations.
  size_t num_messages_max = 4096;
  size_t num_parts_max = 4096;  // of one message
  size_t num_tools_max = 128;   // the Node SDK's own limit on indices
  size_t num_prompts_max = 8;   // of one text completion

  // Of pictures and clips. Counts are of the request.
  int32_t num_images_max = 16;
  int32_t num_frames_max = 768;
  int64_t image_bytes_max = int64_t{32} << 20;    // encoded, each
  int64_t image_pixels_max = int64_t{16} << 20;   // each
  int64_t request_pixels_max = int64_t{1} << 28;  // all together
};

}  // namespace troupe::http
