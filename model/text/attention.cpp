#include "model/text/attention.hpp"

namespace troupe::model {

void attention::issue(const text_step& step) const {
  const auto& [backend, inputs, slot, lane, rows, epsilon] = step;
  backend.linear(rows.qkv, rows.normed, qkv, inputs.tokens);
  backend.norm_rope_attention(
      rows.attention, rows.qkv,
      {q_norm, k_norm, epsilon, inputs.positions, rotary, inputs.slot_mapping}, cache,
      inputs.sequences, inputs.tokens);
  backend.linear(rows.partial, rows.attention, output, inputs.tokens);
}

}  // namespace troupe::model
