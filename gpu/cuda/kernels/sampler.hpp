#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

/// Views are checked by the caller; see operations::sample.
struct sample_arguments {
  tensor_view tokens, logprobs, top_tokens, top_logprobs;
  tensor_view logits;
  tensor_view settings;     // plan::sampling_row [rows] as bytes
  tensor_view adjustments;  // plan::logit_adjustment [...] as bytes
  tensor_view resolved_ids, token_mask;
  const int32_t* num_adjustments;
  const int32_t* live;
  std::byte* scratch;  // sample_scratch_bytes, zeroed once before the first launch
};

/// Bytes of working memory for up to `rows` rows; it is 256-byte aligned. Launches of one stream may share
/// it.
int64_t sample_scratch_bytes(int64_t rows, int64_t vocab);

/// Throws gpu::error.
void launch_sample(const sample_arguments& arguments, const launch_context& on);

}  // namespace troupe::gpu::cuda
