#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/kv_cache.hpp"
#include "model/plan/step_plan.hpp"
#include "model/step_inputs.hpp"
#include "model/text/decoder_layer.hpp"
#include "model/weights/model_weights.hpp"

#include <cstdint>
#include <vector>

namespace troupe::model {

struct text_options {
  gpu::dtype activation = gpu::dtype::bf16;
  std::vector<uint8_t> token_mask;  // [vocab] 0 = never sampled; empty: every token may be
};

/// One rank's text model: its memory, and its operations in order. Knows no graphs: whoever issues
/// a bucket decides whether it runs or is recorded.
class text_model {
 public:
  /// Reserves and seals all memory, places and prepares the weights, each layer's loaded form being
  /// freed on the way: a model need not be in memory twice. `inputs` and `pool` [1 + levels, pool
  /// rows, hidden] are where every step finds what changes. Throws gpu::error.
  text_model(gpu::operations& backend, const config::text_config& config,
             const plan::plan_limits& limits, text_weights weights, const gpu::lane_view& lane,
             const step_views& inputs, const gpu::tensor_view& pool, const text_options& options);

  /// Zeroes a KV block whose content is not to be trusted, before operations issued later.
  void clear_block(int32_t block) { cache_.clear(*backend_, block); }
  /// Zeroes all of them. Nothing may be in flight.
  void clear_blocks() { cache_.arena().clear(); }

  /// Issues the whole step of a bucket: the three parts below, in order.
  void issue(int32_t bucket_tokens) const;

  void issue_embedding(int32_t bucket_tokens) const;
  void issue_layer(int32_t index, int32_t bucket_tokens) const;
  void issue_sampling(int32_t bucket_tokens) const;

  /// Output of the last part issued, before any norm: [max_tokens, hidden].
  const gpu::tensor_view& residual() const { return activations_.residual; }
  /// Of the layer issued last: [max_tokens, num_experts]; without experts of width 0.
  const gpu::tensor_view& router_logits() const { return activations_.router_logits; }
  const gpu::tensor_view& logits() const { return activations_.logits; }  // [max_num_seqs, vocab]
  const gpu::sampling_output& sampled() const { return sampled_; }

  std::vector<gpu::arena*> arenas();

 private:
  void place_weights(gpu::operations& backend, const config::text_config& config,
                     const text_weights& weights, const text_options& options);
  void prepare_layers(gpu::operations& backend, text_weights& weights, int32_t num_experts_per_tok,
                      gpu::dtype activation);
  void lay_out_activations(gpu::memory_kind kind, gpu::dtype activation);
  void lay_out_outputs(gpu::memory_kind kind);
  /// The parts' view of a bucket.
  text_step step_of(int32_t bucket_tokens) const;

  gpu::operations* backend_;
  text_shape shape_;
  int32_t max_tokens_;
  int32_t max_rows_;
  step_views inputs_;
  gpu::visual_slot slot_;
  gpu::lane_view lane_;
  float epsilon_;
  int32_t num_deepstack_levels_;

  std::vector<decoder_layer> layers_;
  gpu::tensor_view embedding_;   // [vocab, hidden]
  gpu::tensor_view first_norm_;  // [hidden]: layer 0's input norm
  gpu::linear_weight lm_head_;
  gpu::text_rotary rotary_;
  gpu::tensor_view token_mask_;  // [vocab] u8
  text_activations activations_;
  gpu::sampling_output sampled_;

  kv_cache cache_;
  std::vector<gpu::arena> arenas_;  // weights, activations, output
};

}  // namespace troupe::model
