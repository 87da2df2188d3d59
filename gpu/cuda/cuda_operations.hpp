#pragma once

#include "gpu/cuda/kernels/attention_paged.hpp"
#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/cuda/kernels/skinny_linear.hpp"
#include "gpu/cuda/linear.hpp"
#include "gpu/cuda/scratch.hpp"
#include "gpu/cuda/stream.hpp"
#include "gpu/cuda/weight_store.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/operations.hpp"

#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe::gpu::cuda {

/// What operations share and graphs keep alive: the stream, libraries, weights, working memory. Members
/// are destroyed in reverse order: memory after the libraries that use it.
struct context {
  explicit context(const cuda_options& options);

  stream work;
  bool shares_device;  // with other ranks of its group
  launch_context launches;
  weight_store weights;
  scratch attention{"attention_scratch"};
  scratch experts{"experts_scratch"};
  library_linear library;

  /// Everything the backend owns that a graph may touch.
  std::vector<arena_lease> leases() const;
};

/// The CUDA backend. An operation checks and describes itself (gpu/described.hpp), then launches its
/// kernels on the stream: at once, or into the graph that is being captured. Eager and captured execution
/// are the same launches.
class cuda_operations final : public operations {
 public:
  explicit cuda_operations(const cuda_options& options);

  memory_kind memory() const override { return memory_kind::device; }
  std::shared_ptr<std::byte> host_staging(int64_t bytes) override;
  void upload(tensor_view destination, const void* source, int64_t bytes) override;
  void download(void* destination, tensor_view source, int64_t bytes) override;
  std::vector<ledger_entry> ledger() const override;

  linear_weight prepare_linear(const std::string& name, const host_matrix& weight,
                               const host_matrix& bias) override;
  std::vector<linear_weight> prepare_linears(const std::string& name,
                                             const std::vector<host_matrix>& weights) override;
  void load(tensor_view destination, const host_matrix& source) override;
  void begin_capture(std::vector<arena_lease> arenas) override;
  captured_graph end_capture(std::string name) override;
  void synchronize() override;
  std::unique_ptr<milestone> mark() override;
  void wait_for(const milestone& earlier) override;

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
  void norm_rope_attention(tensor_view output, tensor_view qkv, const head_rotation& heads,
                           const paged_kv& cache, const sequence_batch& batch,
                           live_count tokens) override;
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
  void gelu_linear(tensor_view output, tensor_view input, const linear_weight& weight,
                   gelu_kind kind, live_count rows) override;
  void linear_add(tensor_view x, tensor_view branch, tensor_view input, const linear_weight& weight,
                  live_count rows) override;
  void gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows) override;
  void add(tensor_view x, tensor_view y, live_count rows) override;
  void scatter_rows(tensor_view pool_level, tensor_view input, tensor_view destination,
                    live_count rows) override;

 private:
  bool capturing() const { return recording_.has_value(); }
  /// Adds the operation to the graph's manifest, if one is being captured. Before the launch, so that
  /// nothing unowned is launched into a graph.
  void describe(baked_operation description);
  std::byte* take_scratch(scratch& memory, int64_t bytes);
  /// Whether the library serves this product, so that its epilogues can be used.
  bool library_serves(const tensor_view& output, const tensor_view& input,
                      const linear_weight& weight) const;
  paged_attention_arguments attention_over(const tensor_view& output, const tensor_view& qkv,
                                           const paged_kv& cache, const sequence_batch& batch,
                                           live_count tokens);
  skinny_linear_arguments skinny(const tensor_view& output, const tensor_view& input,
                                 const linear_weight& weight) const;
  /// Launches what waits for peers. Where ranks share a device, an eager launch waits on the host until
  /// all are there.
  template <class Launch>
  void among_peers(const lane_view& lane, Launch launch);

  std::shared_ptr<context> context_;
  std::optional<manifest> recording_;
};

}  // namespace troupe::gpu::cuda
