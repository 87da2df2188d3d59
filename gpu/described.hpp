#pragma once

#include "gpu/graph.hpp"
#include "gpu/operations.hpp"

#include <cstdint>
#include <string>
#include <vector>

/// What every backend says of an operation before it runs it: one function per operation of
/// gpu/operations.hpp with the same parameters. Each checks the views against that page, throws
/// gpu::error that says what was found and what was expected, and returns what a graph bakes: name,
/// frozen parameters and operands. All ranks describe one graph alike.
///
/// Limits that belong to one backend are that backend's to check.
namespace troupe::gpu::described {

/// Query heads that lie before the keys and values in a row of qkv.
int64_t query_heads(const tensor_view& qkv, const paged_kv& cache);
/// Elements of one head in qkv rows [3 * num_heads * head_dim]. Throws gpu::error.
int64_t vision_head_dim(const tensor_view& qkv, int32_t num_heads);

/// What `operations::prepare_linear` is given.
void expect_linear_weight(const std::string& name, const host_matrix& weight,
                          const host_matrix& bias);

baked_operation embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
                      tensor_view sampled, tensor_view table, const visual_slot& slot,
                      live_count tokens);
baked_operation rms_norm(tensor_view output, tensor_view input, tensor_view weight, float epsilon,
                         live_count rows);
/// `packed` and `bias` (rank 0: none) are the backend's own copies of the weight.
baked_operation linear(tensor_view output, tensor_view input, const linear_weight& weight,
                       tensor_view packed, tensor_view bias, live_count rows);
baked_operation gated_linear(tensor_view output, tensor_view gate_up, tensor_view input,
                             const linear_weight& weight, tensor_view packed, tensor_view bias,
                             live_count rows);
baked_operation qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight,
                                         tensor_view k_weight, float epsilon, tensor_view positions,
                                         const text_rotary& rotary, tensor_view slot_mapping,
                                         const paged_kv& cache, live_count tokens);
baked_operation paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                                const sequence_batch& batch, live_count tokens);
baked_operation norm_rope_attention(tensor_view output, tensor_view qkv, const head_rotation& heads,
                                    const paged_kv& cache, const sequence_batch& batch,
                                    live_count tokens);
baked_operation all_reduce_add_norm(tensor_view normed, tensor_view residual, tensor_view partial,
                                    tensor_view norm_weight, float epsilon, const visual_slot& slot,
                                    int32_t deepstack_level, const lane_view& lane,
                                    live_count rows);
/// `packed`: the backend's own copies of all weights that the operation may read.
baked_operation mixture_of_experts(tensor_view output, tensor_view input, tensor_view router_logits,
                                   int32_t top_k, const std::vector<linear_weight>& gate_up,
                                   const std::vector<linear_weight>& down,
                                   const std::vector<tensor_view>& packed, live_count rows);
baked_operation gather_rows(tensor_view output, tensor_view input, tensor_view row_index,
                            live_count rows);
baked_operation all_gather_columns(tensor_view output, tensor_view part, const lane_view& lane,
                                   live_count rows);
baked_operation sample(const sampling_output& output, tensor_view logits, tensor_view settings,
                       tensor_view adjustments, live_count num_adjustments,
                       tensor_view resolved_ids, tensor_view token_mask, live_count rows);

baked_operation layer_norm(tensor_view output, tensor_view input, tensor_view weight,
                           tensor_view bias, float epsilon, live_count rows);
baked_operation add_position_embedding(tensor_view x, tensor_view table, int32_t side,
                                       tensor_view coordinates, live_count patches);
baked_operation vision_rope(tensor_view qkv, int32_t num_heads, tensor_view coordinates,
                            float theta, live_count patches);
baked_operation segment_attention(tensor_view output, tensor_view qkv, int32_t num_heads,
                                  tensor_view segment_start, live_count segments,
                                  live_count patches);
baked_operation gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows);
baked_operation add(tensor_view x, tensor_view y, live_count rows);
baked_operation scatter_rows(tensor_view pool_level, tensor_view input, tensor_view destination,
                             live_count rows);

}  // namespace troupe::gpu::described
