#pragma once

#include <cstdint>

/// Pure planning data: prompts, blocks, step plans. Builds without CUDA and CAF, so that every decision
/// of the engine can be tested on any computer.
namespace troupe::plan {

/// Sampling settings of one logit row, exactly as kernels read them from the input arena.
struct sampling_row {
  float temperature = 1;  // 0: greedy
  float top_p = 1;
  float min_p = 0;
  int32_t top_k = 0;  // 0: off
  float frequency_penalty = 0;
  float presence_penalty = 0;
  float repetition_penalty = 1;
  int32_t num_logprobs = -1;  // -1: none; else the number of alternatives, 0..max_logprobs
  uint64_t seed = 0;
  int64_t position = 0;      // index of the sampled token in its sequence: the random number's counter
  int32_t input_index = -1;  // token of this step whose id counts as generated though the host did not
                             // know it when it planned; -1: the adjustments hold all history
  int32_t reserved = 0;
  bool operator==(const sampling_row&) const = default;
};
static_assert(sizeof(sampling_row) == 56);

/// History and bias of one token id for one logit row.
struct logit_adjustment {
  int32_t row = 0;
  int32_t token = 0;
  int32_t generated_count = 0;  // times the request generated it (frequency, presence)
  int32_t seen = 0;             // 1 if it occurs in prompt or output (repetition)
  float bias = 0;               // added before everything else
  bool operator==(const logit_adjustment&) const = default;
};
static_assert(sizeof(logit_adjustment) == 20);

/// The most alternatives a client may ask for per token.
inline constexpr int32_t max_logprobs = 20;

}  // namespace troupe::plan
