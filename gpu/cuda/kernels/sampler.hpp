#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "model/plan/sampling_row.hpp"

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

struct sample_arguments {
  int32_t* tokens = nullptr;                            // [rows]
  float* logprobs = nullptr;                            // [rows]
  int32_t* top_tokens = nullptr;                        // [rows, plan::max_logprobs]
  float* top_logprobs = nullptr;                        // [rows, plan::max_logprobs]
  const float* logits = nullptr;                        // [rows, vocab]
  const plan::sampling_row* settings = nullptr;         // [rows]
  const plan::logit_adjustment* adjustments = nullptr;  // [max_adjustments], sorted by row
  const int32_t* num_adjustments = nullptr;
  const int32_t* resolved_ids = nullptr;  // [num_resolved_ids]
  const uint8_t* token_mask = nullptr;    // [vocab]
  const int32_t* live_rows = nullptr;
  std::byte* scratch = nullptr;  // sample_scratch_bytes, zeroed once before the first launch
  int64_t logits_stride = 0;     // elements
  int64_t max_adjustments = 0;
  int64_t num_resolved_ids = 0;
  int64_t rows = 0;  // capacity
  int64_t vocab = 0;
};

/// Bytes of working memory for up to `rows` rows; 256-byte aligned. Launches on one stream may
/// share it.
int64_t sample_scratch_bytes(int64_t rows, int64_t vocab);

/// See operations::sample. Throws gpu::error.
void launch_sample(const sample_arguments& arguments, const launch_context& on);

}  // namespace troupe::gpu::cuda
