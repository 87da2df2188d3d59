#include "model/text/attention.hpp"

namespace troupe::model {

void attention::issue(const text_step& step, const residual_update& update) const {
  const auto& [backend, inputs, slot, lane, rows, epsilon] = step;
  backend.project_heads(rows.qkv, rows.normed, qkv, q_norm, k_norm, epsilon, inputs.positions,
                        rotary, inputs.slot_mapping, cache, inputs.tokens);
  backend.paged_attention(rows.attention, rows.qkv, cache, inputs.sequences, inputs.tokens);
  update.add_product(step, rows.attention, output);
}

}  // namespace troupe::model
