#include "model/text/text_model.hpp"

#include "config/ensure.hpp"
#include "model/arena_builder.hpp"
#include "model/text/rotary_tables.hpp"
#include "model/weight_placement.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace troupe::model {
namespace {

attention prepare_attention(gpu::operations& backend, gpu::dtype activation,
                            const std::string& name, const attention_weights& weights) {
  attention result;
  result.qkv = prepare_linear(backend, activation, name + ".self_attn.qkv", weights.qkv);
  result.output = prepare_linear(backend, activation, name + ".self_attn.o_proj", weights.output);
  return result;
}

mlp prepare_dense(gpu::operations& backend, gpu::dtype activation, const std::string& name,
                  const dense_mlp_weights& weights) {
  return dense_mlp{prepare_linear(backend, activation, name + ".mlp.gate_up", weights.gate_up),
                   prepare_linear(backend, activation, name + ".mlp.down_proj", weights.down)};
}

mlp prepare_experts(gpu::operations& backend, gpu::dtype activation, const std::string& name,
                    const expert_mlp_weights& weights, int32_t num_experts_per_tok) {
  expert_mlp result;
  result.num_experts_per_tok = num_experts_per_tok;
  result.router = prepare_linear(backend, activation, name + ".mlp.gate", weights.router);
  result.gate_up =
      prepare_linears(backend, activation, name + ".mlp.experts.gate_up", weights.gate_up);
  result.down = prepare_linears(backend, activation, name + ".mlp.experts.down", weights.down);
  return result;
}

}  // namespace

text_model::text_model(gpu::operations& backend, const config::text_config& config,
                       const plan::plan_limits& limits, text_weights weights,
                       const gpu::lane_view& lane, const step_views& inputs,
                       const gpu::tensor_view& pool, const text_options& options)
    : backend_(&backend),
      shape_(share_of(config, lane.size)),
      max_tokens_(limits.max_num_batched_tokens),
      max_rows_(limits.max_num_seqs),
      inputs_(inputs),
      slot_{pool, inputs.row_map},
      lane_(lane),
      epsilon_(config.rms_norm_eps),
      num_deepstack_levels_(static_cast<int32_t>(pool.shape[0]) - 1),
      layers_(static_cast<size_t>(config.num_hidden_layers)),
      cache_(backend.memory(), options.activation, config.num_hidden_layers, shape_.num_kv_heads,
             shape_.head_dim, limits) {
  config::ensure(static_cast<int32_t>(weights.layers.size()) == config.num_hidden_layers,
                 "{} layers of weights, expected {}", weights.layers.size(),
                 config.num_hidden_layers);
  config::ensure(num_deepstack_levels_ <= config.num_hidden_layers,
                 "{} deepstack levels for {} layers", num_deepstack_levels_,
                 config.num_hidden_layers);
  place_weights(backend, config, weights, options);
  prepare_layers(backend, weights, config.experts.num_experts_per_tok, options.activation);
  lay_out_activations(backend.memory(), options.activation);
  lay_out_outputs(backend.memory());
  backend.synchronize();  // the weights are there
}

void text_model::place_weights(gpu::operations& backend, const config::text_config& config,
                               const text_weights& weights, const text_options& options) {
  using enum gpu::dtype;
  resident_weights placed("weights", backend.memory());
  placed.add(embedding_, "embed_tokens", weights.embedding, options.activation);
  placed.add(first_norm_, "layers.0.input_layernorm", weights.layers[0].input_norm,
             options.activation);
  for (size_t i = 0; i < layers_.size(); ++i) {
    const auto& source = weights.layers[i];
    const std::string name = fmt::format("layers.{}", i);
    const bool last = i + 1 == layers_.size();
    auto& layer = layers_[i];
    placed.add(layer.attention.q_norm, name + ".q_norm", source.attention.q_norm,
               options.activation);
    placed.add(layer.attention.k_norm, name + ".k_norm", source.attention.k_norm,
               options.activation);
    placed.add(layer.post_attention_norm, name + ".post_attention_layernorm",
               source.post_attention_norm, options.activation);
    placed.add(layer.next_norm, last ? "norm" : fmt::format("layers.{}.input_layernorm", i + 1),
               last ? weights.final_norm : weights.layers[i + 1].input_norm, options.activation);
  }
  const rotary_tables tables = make_rotary_tables(config.rope, config.head_dim);
  placed.add(rotary_.inverse_frequency, "rotary.inverse_frequency", tables.inverse_frequency, f32);
  placed.add(rotary_.axis, "rotary.axis", tables.axis, i32);
  rotary_.attention_factor = tables.attention_factor;
  const std::vector<uint8_t> all(static_cast<size_t>(shape_.vocab_size), 1);
  const auto& mask = options.token_mask.empty() ? all : options.token_mask;
  config::ensure(mask.size() == all.size(), "token mask of {} tokens, expected {}", mask.size(),
                 all.size());
  placed.add(token_mask_, "token_mask", mask, u8);
  arenas_.push_back(placed.seal(backend));
}

void text_model::prepare_layers(gpu::operations& backend, text_weights& weights,
                                int32_t num_experts_per_tok, gpu::dtype activation) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const decoder_layer_weights source = std::move(weights.layers[i]);  // freed layer by layer
    const auto index = static_cast<int32_t>(i);
    const std::string name = fmt::format("layers.{}", i);
    auto& layer = layers_[i];
    const attention linears = prepare_attention(backend, activation, name, source.attention);
    layer.attention.qkv = linears.qkv;
    layer.attention.output = linears.output;
    layer.attention.rotary = rotary_;
    layer.attention.cache = cache_.layer(index);
    layer.mlp =
        source.experts.gate_up.empty()
            ? prepare_dense(backend, activation, name, source.dense)
            : prepare_experts(backend, activation, name, source.experts, num_experts_per_tok);
    // Level 0 of the pool is the embedding; level 1 + k follows layer k.
    if (index < num_deepstack_levels_) layer.deepstack_level = 1 + index;
  }
  lm_head_ = prepare_linear(backend, activation, "lm_head", weights.lm_head);
}

void text_model::lay_out_activations(gpu::memory_kind kind, gpu::dtype activation) {
  using enum gpu::dtype;
  auto& views = activations_;
  const int64_t tokens = max_tokens_;
  arena_builder builder("activations", kind);
  builder.reserve(views.residual, "residual", activation, {tokens, shape_.hidden_size});
  builder.reserve(views.normed, "normed", activation, {tokens, shape_.hidden_size});
  builder.reserve(views.qkv, "qkv", activation, {tokens, shape_.qkv_width()});
  builder.reserve(views.attention, "attention", activation, {tokens, shape_.q_width()});
  builder.reserve(views.partial, "partial", f32, {tokens, shape_.hidden_size});
  builder.reserve(views.gate_up, "gate_up", activation, {tokens, 2 * shape_.intermediate_size});
  builder.reserve(views.mlp, "mlp", activation, {tokens, shape_.intermediate_size});
  builder.reserve(views.router_logits, "router_logits", f32, {tokens, shape_.num_experts});
  builder.reserve(views.resolved_ids, "resolved_ids", i32, {tokens});
  builder.reserve(views.sampled_hidden, "sampled_hidden", activation,
                  {max_rows_, shape_.hidden_size});
  builder.reserve(views.logits, "logits", f32, {max_rows_, shape_.vocab_size});
  if (lane_.size > 1)
    builder.reserve(views.logits_part, "logits_part", f32, {max_rows_, shape_.vocab_part});
  arenas_.push_back(builder.seal());
  if (lane_.size == 1) views.logits_part = views.logits;  // one rank's part is the whole
}

void text_model::lay_out_outputs(gpu::memory_kind kind) {
  using enum gpu::dtype;
  arena_builder builder("output", kind);
  builder.reserve(sampled_.tokens, "tokens", i32, {max_rows_});
  builder.reserve(sampled_.logprobs, "logprobs", f32, {max_rows_});
  builder.reserve(sampled_.top_tokens, "top_tokens", i32, {max_rows_, plan::max_logprobs});
  builder.reserve(sampled_.top_logprobs, "top_logprobs", f32, {max_rows_, plan::max_logprobs});
  arenas_.push_back(builder.seal());
}

text_step text_model::step_of(int32_t bucket_tokens) const {
  const int64_t rows = std::min(bucket_tokens, max_rows_);  // no more rows than tokens
  return {*backend_, inputs_, slot_, lane_, activations_.cut(bucket_tokens, rows), epsilon_};
}

void text_model::issue(int32_t bucket_tokens) const {
  issue_embedding(bucket_tokens);
  for (int32_t i = 0; i < static_cast<int32_t>(layers_.size()); ++i) issue_layer(i, bucket_tokens);
  issue_sampling(bucket_tokens);
}

void text_model::issue_embedding(int32_t bucket_tokens) const {
  const text_step step = step_of(bucket_tokens);
  const auto& rows = step.activations;
  // Reads the tokens that the previous step sampled, before `issue_sampling` overwrites them.
  backend_->embed(rows.residual, rows.resolved_ids, inputs_.token_ids, sampled_.tokens, embedding_,
                  slot_, inputs_.tokens);
  backend_->rms_norm(rows.normed, rows.residual, first_norm_, epsilon_, inputs_.tokens);
}

void text_model::issue_layer(int32_t index, int32_t bucket_tokens) const {
  layers_[static_cast<size_t>(index)].issue(step_of(bucket_tokens));
}

void text_model::issue_sampling(int32_t bucket_tokens) const {
  const text_step step = step_of(bucket_tokens);
  const auto& rows = step.activations;
  backend_->gather_rows(rows.sampled_hidden, rows.normed, inputs_.logit_rows, inputs_.rows);
  backend_->linear(rows.logits_part, rows.sampled_hidden, lm_head_, inputs_.rows);
  if (lane_.size > 1)
    backend_->all_gather_columns(rows.logits, rows.logits_part, lane_, inputs_.rows);
  backend_->sample(sampled_, rows.logits, inputs_.sampling, inputs_.adjustments,
                   inputs_.num_adjustments, rows.resolved_ids, token_mask_, inputs_.rows);
}

std::vector<gpu::arena*> text_model::arenas() {
  std::vector<gpu::arena*> all{&cache_.arena()};
  for (auto& arena : arenas_) all.push_back(&arena);
  return all;
}

}  // namespace troupe::model
