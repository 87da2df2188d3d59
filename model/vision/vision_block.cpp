#include "model/vision/vision_block.hpp"

namespace troupe::model {
namespace {

// Of the tower's two-dimensional rotary embedding; released checkpoints do not state it. Source:
// Qwen3-VL.
constexpr float rope_theta = 10000;

}  // namespace

void vision_block::issue_attention(const vision_step& step) const {
  auto& backend = step.backend;
  const auto& views = step.activations;
  const auto& inputs = step.inputs;
  const gpu::live_count patches = inputs.patches;

  norm1.issue(step, views.normed, views.x, patches);
  backend.linear(views.qkv, views.normed, qkv, patches);
  backend.vision_rope(views.qkv, num_heads, inputs.coordinates, rope_theta, patches);
  backend.segment_attention(views.attention, views.qkv, num_heads, inputs.segment_start,
                            inputs.segments, patches);
  backend.linear_add(views.x, views.branch, views.attention, proj, patches);
}

void vision_block::issue_mlp(const vision_step& step) const {
  const auto& views = step.activations;
  const gpu::live_count patches = step.inputs.patches;
  norm2.issue(step, views.normed, views.x, patches);
  step.backend.gelu_linear(views.mlp, views.normed, fc1, gpu::gelu_kind::tanh, patches);
  step.backend.linear_add(views.x, views.branch, views.mlp, fc2, patches);
}

}  // namespace troupe::model
