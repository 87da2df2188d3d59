#pragma once

#include "gpu/operations.hpp"

#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe::testing {

/// A backend that hands every call to another one: the base of backends that misbehave in one
/// place.
class forwarding_operations : public gpu::operations {
 public:
  explicit forwarding_operations(std::unique_ptr<gpu::operations> inner)
      : inner_(std::move(inner)) {}

  gpu::memory_kind memory() const override { return inner_->memory(); }
  void upload(gpu::tensor_view destination, const void* source, int64_t bytes) override {
    inner_->upload(destination, source, bytes);
  }
  void download(void* destination, gpu::tensor_view source, int64_t bytes) override {
    inner_->download(destination, source, bytes);
  }
  std::shared_ptr<std::byte> host_staging(int64_t bytes) override {
    return inner_->host_staging(bytes);
  }
  std::vector<gpu::ledger_entry> ledger() const override { return inner_->ledger(); }
  std::vector<gpu::linear_weight> prepare_linears(
      const std::string& name, const std::vector<gpu::host_matrix>& weights) override {
    return inner_->prepare_linears(name, weights);
  }
  gpu::linear_weight prepare_linear(const std::string& name, const gpu::host_matrix& weight,
                                    const gpu::host_matrix& bias) override {
    return inner_->prepare_linear(name, weight, bias);
  }
  void load(gpu::tensor_view destination, const gpu::host_matrix& source) override {
    inner_->load(destination, source);
  }
  void begin_capture(std::vector<gpu::arena_lease> arenas) override {
    inner_->begin_capture(std::move(arenas));
  }
  gpu::captured_graph end_capture(std::string name) override { return inner_->end_capture(name); }
  void synchronize() override { inner_->synchronize(); }
  std::unique_ptr<gpu::milestone> mark() override { return inner_->mark(); }
  void wait_for(const gpu::milestone& earlier) override { inner_->wait_for(earlier); }
  void embed(gpu::tensor_view output, gpu::tensor_view resolved_ids, gpu::tensor_view token_ids,
             gpu::tensor_view sampled, gpu::tensor_view table, const gpu::visual_slot& slot,
             gpu::live_count tokens) override {
    inner_->embed(output, resolved_ids, token_ids, sampled, table, slot, tokens);
  }
  void rms_norm(gpu::tensor_view output, gpu::tensor_view input, gpu::tensor_view weight,
                float epsilon, gpu::live_count rows) override {
    inner_->rms_norm(output, input, weight, epsilon, rows);
  }
  void linear(gpu::tensor_view output, gpu::tensor_view input, const gpu::linear_weight& weight,
              gpu::live_count rows) override {
    inner_->linear(output, input, weight, rows);
  }
  void qk_norm_rope_cache_write(gpu::tensor_view qkv, gpu::tensor_view q_weight,
                                gpu::tensor_view k_weight, float epsilon,
                                gpu::tensor_view positions, const gpu::text_rotary& rotary,
                                gpu::tensor_view slot_mapping, const gpu::paged_kv& cache,
                                gpu::live_count tokens) override {
    inner_->qk_norm_rope_cache_write(qkv, q_weight, k_weight, epsilon, positions, rotary,
                                     slot_mapping, cache, tokens);
  }
  void paged_attention(gpu::tensor_view output, gpu::tensor_view qkv, const gpu::paged_kv& cache,
                       const gpu::sequence_batch& batch, gpu::live_count tokens) override {
    inner_->paged_attention(output, qkv, cache, batch, tokens);
  }
  void gated_linear(gpu::tensor_view output, gpu::tensor_view gate_up, gpu::tensor_view input,
                    const gpu::linear_weight& weight, gpu::live_count rows) override {
    inner_->gated_linear(output, gate_up, input, weight, rows);
  }
  void all_reduce_add_norm(gpu::tensor_view normed, gpu::tensor_view residual,
                           gpu::tensor_view partial, gpu::tensor_view norm_weight, float epsilon,
                           const gpu::visual_slot& slot, int32_t deepstack_level,
                           const gpu::lane_view& lane, gpu::live_count rows) override {
    inner_->all_reduce_add_norm(normed, residual, partial, norm_weight, epsilon, slot,
                                deepstack_level, lane, rows);
  }
  void mixture_of_experts(gpu::tensor_view output, gpu::tensor_view input,
                          gpu::tensor_view router_logits, int32_t top_k,
                          const std::vector<gpu::linear_weight>& gate_up,
                          const std::vector<gpu::linear_weight>& down,
                          gpu::live_count rows) override {
    inner_->mixture_of_experts(output, input, router_logits, top_k, gate_up, down, rows);
  }
  void gather_rows(gpu::tensor_view output, gpu::tensor_view input, gpu::tensor_view row_index,
                   gpu::live_count rows) override {
    inner_->gather_rows(output, input, row_index, rows);
  }
  void all_gather_columns(gpu::tensor_view output, gpu::tensor_view part,
                          const gpu::lane_view& lane, gpu::live_count rows) override {
    inner_->all_gather_columns(output, part, lane, rows);
  }
  void sample(const gpu::sampling_output& output, gpu::tensor_view logits,
              gpu::tensor_view settings, gpu::tensor_view adjustments,
              gpu::live_count num_adjustments, gpu::tensor_view resolved_ids,
              gpu::tensor_view token_mask, gpu::live_count rows) override {
    inner_->sample(output, logits, settings, adjustments, num_adjustments, resolved_ids, token_mask,
                   rows);
  }
  void layer_norm(gpu::tensor_view output, gpu::tensor_view input, gpu::tensor_view weight,
                  gpu::tensor_view bias, float epsilon, gpu::live_count rows) override {
    inner_->layer_norm(output, input, weight, bias, epsilon, rows);
  }
  void add_position_embedding(gpu::tensor_view x, gpu::tensor_view table, int32_t side,
                              gpu::tensor_view coordinates, gpu::live_count patches) override {
    inner_->add_position_embedding(x, table, side, coordinates, patches);
  }
  void vision_rope(gpu::tensor_view qkv, int32_t num_heads, gpu::tensor_view coordinates,
                   float theta, gpu::live_count patches) override {
    inner_->vision_rope(qkv, num_heads, coordinates, theta, patches);
  }
  void segment_attention(gpu::tensor_view output, gpu::tensor_view qkv, int32_t num_heads,
                         gpu::tensor_view segment_start, gpu::live_count segments,
                         gpu::live_count patches) override {
    inner_->segment_attention(output, qkv, num_heads, segment_start, segments, patches);
  }
  void gelu(gpu::tensor_view output, gpu::tensor_view input, gpu::gelu_kind kind,
            gpu::live_count rows) override {
    inner_->gelu(output, input, kind, rows);
  }
  void gelu_linear(gpu::tensor_view output, gpu::tensor_view input,
                   const gpu::linear_weight& weight, gpu::gelu_kind kind,
                   gpu::live_count rows) override {
    inner_->gelu_linear(output, input, weight, kind, rows);
  }
  void linear_add(gpu::tensor_view x, gpu::tensor_view branch, gpu::tensor_view input,
                  const gpu::linear_weight& weight, gpu::live_count rows) override {
    inner_->linear_add(x, branch, input, weight, rows);
  }
  void add(gpu::tensor_view x, gpu::tensor_view y, gpu::live_count rows) override {
    inner_->add(x, y, rows);
  }
  void scatter_rows(gpu::tensor_view pool_level, gpu::tensor_view input,
                    gpu::tensor_view destination, gpu::live_count rows) override {
    inner_->scatter_rows(pool_level, input, destination, rows);
  }

 private:
  std::unique_ptr<gpu::operations> inner_;
};

}  // namespace troupe::testing
