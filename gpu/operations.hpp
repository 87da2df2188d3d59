#pragma once

#include "gpu/graph.hpp"
#include "gpu/host_matrix.hpp"
#include "gpu/lane_view.hpp"
#include "gpu/tensor_view.hpp"
#include "model/plan/sampling_row.hpp"

#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

namespace troupe::gpu {

/// The live count of something, read from device memory at a fixed address when an operation runs.
/// Shapes of views are capacities (the bucket); rows at or past the live count hold garbage, possibly
/// NaN, and no live row may depend on them.
struct live_count {
  const int32_t* value = nullptr;
};

/// The deepstack slot: the visual pool and the row map. Always present; a token without a picture
/// has -1 in the map.
///
/// pool     [1 + num_deepstack_levels, pool_rows, hidden_size]  activation dtype; level 0 replaces the
///          token's embedding, level 1 + k is added after decoder layer k
/// row_map  [max_tokens] i32: pool row of each token of the step, or -1
struct visual_slot {
  tensor_view pool;
  tensor_view row_map;
};

/// A weight prepared by a backend for `linear` (packed, and owned by the backend). Index into its table.
struct linear_weight {
  int32_t index = -1;
  int64_t in_features = 0;
  int64_t out_features = 0;
};

/// Rotary frequencies of the text model: `inverse_frequency` [head_dim / 2] f32 and `axis`
/// [head_dim / 2] i32 (0 t, 1 h, 2 w); cos and sin are multiplied by `attention_factor` (YaRN).
struct text_rotary {
  tensor_view inverse_frequency;
  tensor_view axis;
  float attention_factor = 1;
};

/// What becomes of the heads of a step's tokens before they attend: q and k heads are normed (RMS, weights
/// [head_dim]) and rotated by the three position rows.
struct head_rotation {
  tensor_view q_weight;
  tensor_view k_weight;
  float epsilon = 0;
  tensor_view positions;  // [3, max_tokens] i32
  text_rotary rotary;
  tensor_view slot_mapping;  // [max_tokens] i32 (block * block_size + offset, or -1: do not write)
};

/// Paged key-value cache of one layer of one rank: [num_blocks, 2, kv_heads, block_size, head_dim],
/// second index 0 = keys (normed and rotated), 1 = values.
struct paged_kv {
  tensor_view blocks;  // rank 4: [num_blocks * 2, kv_heads, block_size, head_dim]
  int32_t block_size = 0;
  int32_t num_kv_heads = 0;
};

/// Sequences of a step, all i32 in the input arena.
struct sequence_batch {
  tensor_view query_start;      // [max_sequences + 1] first token of each sequence; last live entry = tokens
  tensor_view context_lengths;  // [max_sequences] keys visible to the last token of the sequence
  tensor_view block_tables;     // [max_sequences, max_blocks_per_sequence]
  live_count sequences;
};

/// Results of sampling, in the output arena. `tokens` -1 marks a row whose logits held NaN or
/// infinity: no token may be taken from it.
struct sampling_output {
  tensor_view tokens;        // [max_rows] i32
  tensor_view logprobs;      // [max_rows] f32, of the sampled token, before temperature and penalties
  tensor_view top_tokens;    // [max_rows, plan::max_logprobs] i32
  tensor_view top_logprobs;  // [max_rows, plan::max_logprobs] f32
};

enum class gelu_kind : uint8_t { tanh, erf };

/// A place in the order in which a backend does what it was given.
class milestone {
 public:
  virtual ~milestone() = default;
  /// Whether all that was issued before it is done. Throws gpu::error if some of it failed.
  virtual bool passed() = 0;
};

/// Of a backend that does everything at once.
class passed_milestone final : public milestone {
 public:
  bool passed() override { return true; }
};

/// Everything the network is made of. Written once against this interface; a backend runs each call
/// at once (eager) or records it (between `begin_capture` and `end_capture`), with the same kernels.
///
/// All views point into sealed arenas of the backend. "activation" below is f32 or bf16, the same for
/// all views of a call unless stated. Accumulation is fp32; a bf16 result is rounded once. Reductions
/// over a row do not depend on other rows or on the bucket, except inside `linear`, where a backend
/// states its own guarantee. Calls throw gpu::error; results are there when `synchronize` returns.
class operations {
 public:
  virtual ~operations() = default;

  // -- memory --------------------------------------------------------------------------------------
  /// Where the arenas of this backend's tensors must lie.
  virtual memory_kind memory() const { return memory_kind::host; }
  /// Copies `bytes` from host memory to the start of `destination`, before operations issued later.
  /// Never recorded. `source` may be changed once `synchronize` returned. (Here and in `download`: host
  /// memory, where the copy is done at once.)
  virtual void upload(tensor_view destination, const void* source, int64_t bytes) {
    if (bytes > 0) std::memcpy(destination.data, source, static_cast<size_t>(bytes));
  }
  /// Copies the first `bytes` of `source` to host memory, after operations issued earlier.
  virtual void download(void* destination, tensor_view source, int64_t bytes) {
    if (bytes > 0) std::memcpy(destination, source.data, static_cast<size_t>(bytes));
  }

  /// Host memory that `upload` and `download` are fastest with (pinned, where there is a device). Not
  /// zeroed; pages that nothing fills are never touched on the host backend.
  virtual std::shared_ptr<std::byte> host_staging(int64_t bytes) {
    return {new std::byte[static_cast<size_t>(bytes)], std::default_delete<std::byte[]>()};
  }

  /// Memory that the backend itself owns (weights of `linear`, working memory), by owner.
  virtual std::vector<ledger_entry> ledger() const { return {}; }

  // -- weights, before any capture ---------------------------------------------------------------
  /// weight [out, in] (checkpoint orientation), bias [out] or rank 0, both of the dtype of the activations
  /// they will meet. Packs for the widths it will meet. A backend may go on loading in the background (of
  /// memory that the matrix keeps alive): the weight can be used once `synchronize` returned, which throws
  /// what reading it threw.
  virtual linear_weight prepare_linear(const std::string& name, const host_matrix& weight,
                                       const host_matrix& bias) = 0;

  /// The same for a weight that operations read as it is: fills `destination`.
  virtual void load(tensor_view destination, const host_matrix& source) {
    source.copy_to(destination.data);
  }

  /// Weights of one shape that one operation uses together (the experts of a layer): a backend may place
  /// them side by side.
  virtual std::vector<linear_weight> prepare_linears(const std::string& name,
                                                     const std::vector<host_matrix>& weights) {
    std::vector<linear_weight> prepared;
    for (size_t i = 0; i < weights.size(); ++i)
      prepared.push_back(prepare_linear(name + "." + std::to_string(i), weights[i], {}));
    return prepared;
  }

  // -- graphs --------------------------------------------------------------------------------------
  /// Starts recording; operands must lie in `arenas` or in memory the backend owns.
  virtual void begin_capture(std::vector<arena_lease> arenas) = 0;
  virtual captured_graph end_capture(std::string name) = 0;
  /// Waits for everything issued so far.
  virtual void synchronize() = 0;
  /// Marks what was issued so far, to ask later whether it is done. Never recorded.
  virtual std::unique_ptr<milestone> mark() { return std::make_unique<passed_milestone>(); }
  /// What is issued after this call begins when `earlier` has passed, which this backend or another one on
  /// the same device marked. Never recorded. (Here: what was issued earlier is done.)
  virtual void wait_for(const milestone& /*earlier*/) {}

  // -- text ----------------------------------------------------------------------------------------
  /// output[i] = pool[0][row_map[i]] if row_map[i] >= 0, else table[id(i)], where id(i) is
  /// token_ids[i] if that is >= 0, else sampled[-1 - token_ids[i]] (the row the previous step sampled).
  /// Writes the resolved ids to `resolved_ids` [max_tokens] i32.
  /// output [tokens, hidden] activation; table [vocab, hidden] activation; ids outside the table are
  /// read as row 0 (the host has validated them; the kernel must not fault).
  virtual void embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
                     tensor_view sampled, tensor_view table, const visual_slot& slot,
                     live_count tokens) = 0;

  /// output = weight * (input * rsqrt(mean(input^2) + epsilon)), the normalised value rounded to the
  /// activation dtype before the multiplication. [rows, width]; may alias.
  virtual void rms_norm(tensor_view output, tensor_view input, tensor_view weight, float epsilon,
                        live_count rows) = 0;

  /// output [rows, out] = input [rows, in] * weight^T + bias. Output may be f32 though the input is
  /// bf16.
  virtual void linear(tensor_view output, tensor_view input, const linear_weight& weight,
                      live_count rows) = 0;

  /// output [rows, width] = silu(gate) * up, where gate_up [rows, 2 * width] = input * weight^T + bias
  /// with gate first. `gate_up` is working memory of the activation dtype: what it holds afterwards is
  /// unspecified. bf16 rounds gate and up as `linear` does, then silu and the product.
  virtual void gated_linear(tensor_view output, tensor_view gate_up, tensor_view input,
                            const linear_weight& weight, live_count rows) = 0;

  /// Normalises q and k heads (RMS, weights [head_dim]; rounded as rms_norm), rotates them by the three
  /// position rows (angles, products and sum in fp32, one rounding),
  /// and writes k and v to the cache. qkv [tokens, (q_heads + 2 kv_heads) * head_dim] is updated in
  /// place for q. positions [3, max_tokens] i32; slot_mapping [max_tokens] i32 (block * block_size +
  /// offset, or -1: do not write).
  virtual void qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight, tensor_view k_weight,
                                        float epsilon, tensor_view positions,
                                        const text_rotary& rotary, tensor_view slot_mapping,
                                        const paged_kv& cache, live_count tokens) = 0;

  /// Causal attention of each sequence's new tokens over its paged context: token j of a sequence
  /// with n new tokens sees keys [0, context_length - n + j]. output [tokens, q_heads * head_dim]; q is
  /// read from qkv. Scale head_dim^-0.5, softmax and its weights in fp32.
  virtual void paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                               const sequence_batch& batch, live_count tokens) = 0;

  /// qk_norm_rope_cache_write, then paged_attention; what qkv holds afterwards is unspecified. A backend
  /// that fuses them takes keys and values of a sequence's new tokens from qkv: none may read those that
  /// another sequence of the step writes.
  virtual void norm_rope_attention(tensor_view output, tensor_view qkv, const head_rotation& heads,
                                   const paged_kv& cache, const sequence_batch& batch,
                                   live_count tokens) {
    qk_norm_rope_cache_write(qkv, heads.q_weight, heads.k_weight, heads.epsilon, heads.positions,
                             heads.rotary, heads.slot_mapping, cache, tokens);
    paged_attention(output, qkv, cache, batch, tokens);
  }

  /// Sums `partial` [rows, width] f32 over the ranks of `lane` in rank order, rounds once to the
  /// activation dtype, adds it to `residual` (in place), then adds pool[deepstack_level] rows where the
  /// row map says so (deepstack_level -1: none), and writes rms_norm(residual) to `normed`.
  virtual void all_reduce_add_norm(tensor_view normed, tensor_view residual, tensor_view partial,
                                   tensor_view norm_weight, float epsilon, const visual_slot& slot,
                                   int32_t deepstack_level, const lane_view& lane,
                                   live_count rows) = 0;

  /// Mixture of experts: softmax over router_logits [rows, experts] f32, the top_k largest (lowest
  /// index wins ties) renormalised, then output [rows, hidden] f32 = sum w_e * down_e(silu(g) * u).
  /// gate_up[e]: hidden -> 2 * width (gate first), down[e]: width -> hidden.
  virtual void mixture_of_experts(tensor_view output, tensor_view input, tensor_view router_logits,
                                  int32_t top_k, const std::vector<linear_weight>& gate_up,
                                  const std::vector<linear_weight>& down, live_count rows) = 0;

  /// output[i] = input[row_index[i]]; output [rows, width], row_index [max_rows] i32.
  virtual void gather_rows(tensor_view output, tensor_view input, tensor_view row_index,
                           live_count rows) = 0;

  /// output [rows, lane.size * width] f32 = the ranks' `part` [rows, width] f32 side by side in rank
  /// order.
  virtual void all_gather_columns(tensor_view output, tensor_view part, const lane_view& lane,
                                  live_count rows) = 0;

  /// Samples one token per logit row. logits [rows, vocab] f32, untouched; settings: plan::sampling_row
  /// [max_rows] as bytes; adjustments: plan::logit_adjustment[...] as bytes sorted by row; token_mask [vocab]
  /// u8, 0 = never sampled. Greedy when temperature is 0 (lowest id wins ties). Order: bias, repetition,
  /// frequency and presence penalties, temperature, top-k, top-p of what is left, min-p. The random number
  /// depends on (seed, position) alone.
  virtual void sample(const sampling_output& output, tensor_view logits, tensor_view settings,
                      tensor_view adjustments, live_count num_adjustments, tensor_view resolved_ids,
                      tensor_view token_mask, live_count rows) = 0;

  // -- vision --------------------------------------------------------------------------------------
  /// output = layer norm over each row, with weight and bias [width]; fp32 statistics.
  virtual void layer_norm(tensor_view output, tensor_view input, tensor_view weight, tensor_view bias,
                          float epsilon, live_count rows) = 0;

  /// x [patches, hidden] += bilinear interpolation (align_corners) of `table` [side * side, hidden] at
  /// the patch's place. coordinates [max_patches, 4] i32: row, column, grid height, grid width. Weights
  /// and sum in fp32, one rounding.
  virtual void add_position_embedding(tensor_view x, tensor_view table, int32_t side,
                                      tensor_view coordinates, live_count patches) = 0;

  /// Rotates q and k of qkv [patches, 3 * heads * head_dim] in place by (row, column), half-split,
  /// theta as given.
  virtual void vision_rope(tensor_view qkv, int32_t num_heads, tensor_view coordinates, float theta,
                           live_count patches) = 0;

  /// Full attention inside each segment. segment_start [max_segments + 1] i32. output
  /// [patches, heads * head_dim].
  virtual void segment_attention(tensor_view output, tensor_view qkv, int32_t num_heads,
                                 tensor_view segment_start, live_count segments,
                                 live_count patches) = 0;

  /// May alias.
  virtual void gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows) = 0;

  /// output = gelu(linear(input)). A backend that fuses them skips the rounding between.
  virtual void gelu_linear(tensor_view output, tensor_view input, const linear_weight& weight,
                           gelu_kind kind, live_count rows) {
    linear(output, input, weight, rows);
    gelu(output, output, kind, rows);
  }

  /// x += linear(input); `branch` [rows, width] is working memory, whose contents afterwards are
  /// unspecified. A backend that fuses them rounds the sum alone.
  virtual void linear_add(tensor_view x, tensor_view branch, tensor_view input,
                          const linear_weight& weight, live_count rows) {
    linear(branch, input, weight, rows);
    add(x, branch, rows);
  }

  /// x += y, [rows, width], one rounding.
  virtual void add(tensor_view x, tensor_view y, live_count rows) = 0;

  /// pool_level[destination[i]] = input[i] where destination[i] >= 0. pool_level
  /// [pool_rows, hidden], destination [max_rows] i32.
  virtual void scatter_rows(tensor_view pool_level, tensor_view input, tensor_view destination,
                            live_count rows) = 0;
};

}  // namespace troupe::gpu
