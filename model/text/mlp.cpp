#include "model/text/mlp.hpp"

namespace troupe::model {

void dense_mlp::issue(const text_step& step) const {
  const auto& rows = step.activations;
  const gpu::live_count tokens = step.inputs.tokens;
  step.backend.gated_linear(rows.mlp, rows.gate_up, rows.normed, gate_up, tokens);
  step.backend.linear(rows.partial, rows.mlp, down, tokens);
}

void expert_mlp::issue(const text_step& step) const {
  const auto& rows = step.activations;
  const gpu::live_count tokens = step.inputs.tokens;
  step.backend.linear(rows.router_logits, rows.normed, router, tokens);
  step.backend.mixture_of_experts(rows.partial, rows.normed, rows.router_logits,
                                  num_experts_per_tok, gate_up, down, tokens);
}

}  // namespace troupe::model
