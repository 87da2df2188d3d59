#include "model/text/text_step.hpp"

#include <algorithm>

namespace troupe::model {

text_shape share_of(const config::text_config& text, int32_t tp_size) {
  bool any_dense = false;
  for (int32_t layer = 0; layer < text.num_hidden_layers; ++layer)
    any_dense = any_dense || !text.experts.sparse(layer);

  text_shape shape;
  shape.hidden_size = text.hidden_size;
  shape.head_dim = text.head_dim;
  shape.num_q_heads = text.num_attention_heads / tp_size;
  shape.num_kv_heads = std::max(text.num_key_value_heads / tp_size, 1);
  shape.intermediate_size = any_dense ? text.intermediate_size / tp_size : 0;
  shape.num_experts = text.experts.num_experts;
  shape.vocab_size = text.vocab_size;
  shape.vocab_part = text.vocab_size / tp_size;
  return shape;
}

text_activations text_activations::cut(int64_t tokens, int64_t rows) const {
  text_activations part = *this;
  for (auto* view : {&part.residual, &part.normed, &part.qkv, &part.attention, &part.partial,
                     &part.gate_up, &part.mlp, &part.router_logits})
    *view = view->slice_rows(0, tokens);
  for (auto* view : {&part.sampled_hidden, &part.logits_part, &part.logits})
    *view = view->slice_rows(0, rows);
  return part;
}

}  // namespace troupe::model
