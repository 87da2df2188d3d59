#include "model/text/mlp.hpp"

namespace troupe::model {

void dense_mlp::issue(const text_step& step, const residual_update& update) const {
  const auto& rows = step.activations;
  step.backend.gated_linear(rows.mlp, rows.gate_up, rows.normed, gate_up, step.inputs.tokens);
  update.add_product(step, rows.mlp, down);
}

void expert_mlp::issue(const text_step& step, const residual_update& update) const {
  const auto& rows = step.activations;
  const gpu::live_count tokens = step.inputs.tokens;
  step.backend.linear(rows.router_logits, rows.normed, router, tokens);
  step.backend.mixture_of_experts(rows.partial, rows.normed, rows.router_logits,
                                  num_experts_per_tok, gate_up, down, tokens);
  update.add_partial(step);
}

}  // namespace troupe::model
