#include "model/text/decoder_layer.hpp"

namespace troupe::model {
namespace {

constexpr int32_t no_deepstack_level = -1;

void add_to_residual(const text_step& step, const gpu::tensor_view& norm, int32_t deepstack_level) {
  const auto& rows = step.activations;
  step.backend.all_reduce_add_norm(rows.normed, rows.residual, rows.partial, norm, step.epsilon,
                                   step.slot, deepstack_level, step.lane, step.inputs.tokens);
}

}  // namespace

void decoder_layer::issue(const text_step& step) const {
  attention.issue(step);
  add_to_residual(step, post_attention_norm, no_deepstack_level);
  std::visit([&](const auto& kind) { kind.issue(step); }, mlp);
  add_to_residual(step, next_norm, deepstack_level);
}

}  // namespace troupe::model
