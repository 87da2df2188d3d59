#include "model/text/attention.hpp"

namespace troupe::model {

void attention::issue(const text_step& step) const {
  const auto& [backend, inputs, slot, lane, rows, epsilon] = step;
  backend.linear(rows.qkv, rows.normed, qkv, inputs.tokens);
  backend.qk_norm_rope_cache_write(rows.qkv, q_norm, k_norm, epsilon, inputs.positions, rotary,
                                   inputs.slot_mapping, cache, inputs.tokens);
  backend.paged_attention(rows.attention, rows.qkv, cache, inputs.sequences, inputs.tokens);
  backend.linear(rows.partial, rows.attention, output, inputs.tokens);
}

}  // namespace troupe::model
