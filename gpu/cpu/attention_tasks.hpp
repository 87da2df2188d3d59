#pragma once

#include "gpu/cpu/cpu_operations.hpp"

#include <cstdint>

namespace troupe::gpu::cpu {

/// What attention needs of the team's scratch for heads of `head_dim` and `max_sequences`
/// sequences.
void reserve_attention_scratch(context& context, int64_t head_dim, int64_t max_sequences);

/// Causal attention over the paged cache. `heads` are query heads of `query`, whose rows hold at
/// least them.
struct paged_attention_call {
  tensor_view output;
  tensor_view query;
  paged_kv cache;
  sequence_batch batch;
  int64_t num_q_heads = 0;
  int64_t head_dim = 0;
};
void attend_sequences(const context& context, const paged_attention_call& call, int64_t tokens);

/// Full attention inside each segment of qkv [patches, 3 * heads * head_dim].
struct segment_attention_call {
  tensor_view output;
  tensor_view qkv;
  tensor_view segment_start;
  int64_t num_heads = 0;
  int64_t head_dim = 0;
};
void attend_segments(const context& context, const segment_attention_call& call, int64_t segments,
                     int64_t patches);

}  // namespace troupe::gpu::cpu
