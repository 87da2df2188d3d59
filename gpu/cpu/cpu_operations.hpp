#pragma once

#include "gpu/backend.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/matmul.hpp"
#include "gpu/cpu/scratch.hpp"
#include "gpu/cpu/team.hpp"
#include "gpu/operations.hpp"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace troupe::gpu::cpu {

/// What operations share and graphs keep alive: threads, kernels, packed weights, working memory.
struct context {
  context(const cpu_options& options, const kernel_table& table)
      : threads(options.num_threads), kernels(table), products(table, threads) {}

  team threads;
  const kernel_table& kernels;
  matmul products;
  scratch thread_scratch;  // cut into one part per thread
  scratch task_scratch;    // lists that one operation makes
  scratch expert_scratch;
};

/// The CPU backend. An operation is checked and described by gpu/described.hpp and leaves a
/// closure that is run at once or recorded: eager and recorded execution are the same code.
class cpu_operations final : public operations {
 public:
  cpu_operations(const cpu_options& options, const kernel_table& kernels);

  std::vector<ledger_entry> ledger() const override { return context_->products.ledger(); }
  linear_weight prepare_linear(const std::string& name, const host_matrix& weight,
                               const host_matrix& bias) override;
  void begin_capture(std::vector<arena_lease> arenas) override;
  captured_graph end_capture(std::string name) override;
  void synchronize() override {}

  void embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
             tensor_view sampled, tensor_view table, const visual_slot& slot,
             live_count tokens) override;
  void rms_norm(tensor_view output, tensor_view input, tensor_view weight, float epsilon,
                live_count rows) override;
  void linear(tensor_view output, tensor_view input, const linear_weight& weight,
              live_count rows) override;
  void gated_linear(tensor_view output, tensor_view gate_up, tensor_view input,
                    const linear_weight& weight, live_count rows) override;
  void qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight, tensor_view k_weight,
                                float epsilon, tensor_view positions, const text_rotary& rotary,
                                tensor_view slot_mapping, const paged_kv& cache,
                                live_count tokens) override;
  void paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                       const sequence_batch& batch, live_count tokens) override;
  void all_reduce_add_norm(tensor_view normed, tensor_view residual, tensor_view partial,
                           tensor_view norm_weight, float epsilon, const visual_slot& slot,
                           int32_t deepstack_level, const lane_view& lane,
                           live_count rows) override;
  void mixture_of_experts(tensor_view output, tensor_view input, tensor_view router_logits,
                          int32_t top_k, const std::vector<linear_weight>& gate_up,
                          const std::vector<linear_weight>& down, live_count rows) override;
  void gather_rows(tensor_view output, tensor_view input, tensor_view row_index,
                   live_count rows) override;
  void all_gather_columns(tensor_view output, tensor_view part, const lane_view& lane,
                          live_count rows) override;
  void sample(const sampling_output& output, tensor_view logits, tensor_view settings,
              tensor_view adjustments, live_count num_adjustments, tensor_view resolved_ids,
              tensor_view token_mask, live_count rows) override;

  void layer_norm(tensor_view output, tensor_view input, tensor_view weight, tensor_view bias,
                  float epsilon, live_count rows) override;
  void add_position_embedding(tensor_view x, tensor_view table, int32_t side,
                              tensor_view coordinates, live_count patches) override;
  void vision_rope(tensor_view qkv, int32_t num_heads, tensor_view coordinates, float theta,
                   live_count patches) override;
  void segment_attention(tensor_view output, tensor_view qkv, int32_t num_heads,
                         tensor_view segment_start, live_count segments,
                         live_count patches) override;
  void gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows) override;
  void add(tensor_view x, tensor_view y, live_count rows) override;
  void scatter_rows(tensor_view pool_level, tensor_view input, tensor_view destination,
                    live_count rows) override;

 private:
  struct recording {
    manifest baked;
    std::vector<std::function<void()>> program;
  };

  /// Runs `run` now, or records it under this description.
  void issue(baked_operation description, std::function<void()> run);

  std::shared_ptr<context> context_;
  std::unique_ptr<recording> recording_;
};

}  // namespace troupe::gpu::cpu
