#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace troupe::plan {

/// What a request asks of sampling, validated: every value is finite and in its range.
struct sampling_params {
  float temperature = 1;             // 0..2, 0: greedy
  float top_p = 1;                   // (0, 1]
  float min_p = 0;                   // [0, 1]
  int32_t top_k = 0;                 // 0: off
  float frequency_penalty = 0;       // -2..2
  float presence_penalty = 0;        // -2..2
  float repetition_penalty = 1;      // (0, 10]
  uint64_t seed = 0;
  int32_t max_tokens = 0;            // at least 1, context already taken into account
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  int32_t num_logprobs = -1;         // -1: none
  std::vector<int32_t> stop_token_ids;  // beside the model's own end tokens
  std::vector<std::pair<int32_t, float>> logit_bias;
};

}  // namespace troupe::plan
