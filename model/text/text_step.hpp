#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/plan/step_plan.hpp"
#include "model/step_inputs.hpp"

#include <cstdint>

namespace troupe::model {

/// Widths of one rank's share of the text model.
struct text_shape {
  int32_t hidden_size = 0;
  int32_t head_dim = 0;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t intermediate_size = 0;  // of dense layers; 0 if all are sparse
  int32_t num_experts = 0;
  int32_t vocab_size = 0;
  int32_t vocab_part = 0;

  int32_t qkv_width() const { return (num_q_heads + 2 * num_kv_heads) * head_dim; }
  int32_t q_width() const { return num_q_heads * head_dim; }
};

/// The share of each of `tp_size` ranks. With more ranks than key-value heads each rank has one of
/// them, and neighbours share it.
text_shape share_of(const config::text_config& text, int32_t tp_size);

/// Every intermediate result of a step, reserved once for the largest bucket.
struct text_activations {
  gpu::tensor_view residual;        // [tokens, hidden]
  gpu::tensor_view normed;          // [tokens, hidden]
  gpu::tensor_view qkv;             // [tokens, (q heads + 2 kv heads) * head_dim]
  gpu::tensor_view attention;       // [tokens, q heads * head_dim]
  gpu::tensor_view partial;         // [tokens, hidden] f32: this rank's addend of an all-reduce
  gpu::tensor_view gate_up;         // [tokens, 2 * intermediate]
  gpu::tensor_view mlp;             // [tokens, intermediate]
  gpu::tensor_view router_logits;   // [tokens, experts] f32
  gpu::tensor_view resolved_ids;    // [tokens] i32
  gpu::tensor_view sampled_hidden;  // [rows, hidden]: of the tokens whose logits are wanted
  gpu::tensor_view logits_part;     // [rows, vocab / tp] f32
  gpu::tensor_view logits;          // [rows, vocab] f32

  /// The first `tokens` tokens and `rows` rows of each.
  text_activations cut(int64_t tokens, int64_t rows) const;
};

/// What the parts of the text model work on while they issue one bucket's operations.
struct text_step {
  gpu::operations& backend;
  const step_views& inputs;
  gpu::visual_slot slot;
  gpu::lane_view lane;
  text_activations activations;
  float epsilon = 0;  // rms_norm_eps
};

}  // namespace troupe::model
