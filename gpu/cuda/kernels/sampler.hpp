#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

namespace troupe::gpu::cuda {

/// Views are checked by the caller; see operations::sample. A row has at most one adjustment per
/// token.
struct sample_arguments {
  tensor_view tokens, logprobs, top_tokens, top_logprobs;
  tensor_view logits;
  tensor_view settings;     // plan::sampling_row [rows] as bytes
  tensor_view adjustments;  // plan::logit_adjustment [...] as bytes
  tensor_view resolved_ids, token_mask;
  const int32_t* num_adjustments;
  const int32_t* live;
};
/// Throws gpu::error.
void launch_sample(const sample_arguments& arguments, const launch_context& on);

}  // namespace troupe::gpu::cuda
