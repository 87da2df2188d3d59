#include "gpu/described.hpp"

#include "gpu/operands.hpp"
#include "model/plan/sampling_row.hpp"

#include <string>
#include <utility>

namespace troupe::gpu::described {
namespace {

/// The lane's memory on every rank. All alike, so that ranks describe one graph with one text.
void append_lane(baked_operation& description, const lane_view& lane) {
  if (lane.size == 1) return;
  for (int32_t rank = 0; rank < lane.size; ++rank)
    description.operands.push_back({lane.pieces[static_cast<size_t>(rank)], lane.piece_bytes,
                                    dtype::u8, access_kind::read_write});
}

void expect_lane(const lane_view& lane, const tensor_view& part) {
  expect(lane.size >= 1 && lane.size <= max_ranks, "a lane of {} ranks, expected 1 to {}",
         lane.size, max_ranks);
  const int64_t bytes = part.elements() * size_of(part.type);
  expect(lane.size == 1 || bytes <= lane.slot_bytes, "a round of {} bytes on a lane of {}", bytes,
         lane.slot_bytes);
}

void expect_cache(const paged_kv& cache, const tensor_view& qkv) {
  const int64_t head_dim = cache.blocks.width();
  expect_type("KV cache", cache.blocks, qkv.type);
  expect(cache.blocks.rank == 4 && cache.blocks.contiguous() &&
             cache.blocks.shape[1] == cache.num_kv_heads &&
             cache.blocks.shape[2] == cache.block_size && cache.num_kv_heads > 0 &&
             cache.block_size > 0 && head_dim > 0,
         "KV cache is [{}, {}, {}, {}], expected [blocks * 2, {}, {}, head_dim]",
         cache.blocks.shape[0], cache.blocks.shape[1], cache.blocks.shape[2], cache.blocks.shape[3],
         cache.num_kv_heads, cache.block_size);
  const int64_t q_heads = query_heads(qkv, cache);
  expect(qkv.width() % head_dim == 0 && q_heads > 0 && q_heads % cache.num_kv_heads == 0,
         "qkv rows of {} elements do not hold query heads for {} key-value heads of {}",
         qkv.width(), cache.num_kv_heads, head_dim);
}

void expect_batch(const sequence_batch& batch) {
  const int64_t sequences = batch.context_lengths.elements();
  for (const auto& view : {batch.query_start, batch.context_lengths, batch.block_tables})
    expect_type("sequence batch", view, dtype::i32);
  expect_elements("query_start", batch.query_start, sequences + 1);
  expect_rows("block_tables", batch.block_tables, sequences);
}

void expect_rotary(const text_rotary& rotary, int64_t head_dim) {
  expect_type("inverse_frequency", rotary.inverse_frequency, dtype::f32);
  expect_type("rotary axis", rotary.axis, dtype::i32);
  expect_elements("inverse_frequency", rotary.inverse_frequency, head_dim / 2);
  expect_elements("rotary axis", rotary.axis, head_dim / 2);
}

void expect_experts(const tensor_view& output, const tensor_view& input,
                    const tensor_view& router_logits, const std::vector<linear_weight>& gate_up,
                    const std::vector<linear_weight>& down) {
  const auto experts = static_cast<int64_t>(gate_up.size());
  expect(experts > 0 && gate_up.size() == down.size() && router_logits.width() == experts,
         "{} gate_up and {} down weights for {} router logits", gate_up.size(), down.size(),
         router_logits.width());
  for (size_t i = 0; i < down.size(); ++i)
    expect(gate_up[i].in_features == input.width() &&
               gate_up[i].out_features == 2 * down.front().in_features &&
               down[i].in_features == down.front().in_features &&
               down[i].out_features == output.width(),
           "expert {} maps {} -> {}, {} -> {}", i, gate_up[i].in_features, gate_up[i].out_features,
           down[i].in_features, down[i].out_features);
}

void expect_coordinates(const tensor_view& coordinates, int64_t patches) {
  expect_type("coordinates", coordinates, dtype::i32);
  expect_width("coordinates", coordinates, 4);
  expect_rows("coordinates", coordinates, patches);
}

}  // namespace

int64_t query_heads(const tensor_view& qkv, const paged_kv& cache) {
  return qkv.width() / cache.blocks.width() - 2 * int64_t{cache.num_kv_heads};
}

int64_t vision_head_dim(const tensor_view& qkv, int32_t num_heads) {
  expect(num_heads > 0 && qkv.width() % (3 * int64_t{num_heads}) == 0,
         "qkv rows of {} elements, expected 3 times {} heads", qkv.width(), num_heads);
  return qkv.width() / (3 * int64_t{num_heads});
}

// Linear.
void expect_linear_weight(const std::string& name, const host_matrix& weight,
                          const host_matrix& bias) {
  const tensor_view shape = weight.view_at(nullptr), bias_shape = bias.view_at(nullptr);
  expect_activation(name, shape);
  expect(shape.rank == 2 && shape.elements() > 0, "{} is {}, expected a matrix", name,
         shape_text(shape));
  if (bias.rank() == 0) return;
  expect_activation(name + " bias", bias_shape);
  expect(bias_shape.elements() == weight.rows(), "{} has a bias of {} elements, expected {}", name,
         bias_shape.elements(), weight.rows());
}

baked_operation linear(tensor_view output, tensor_view input, const linear_weight& weight,
                       tensor_view packed, tensor_view bias, live_count rows) {
  expect_activation("linear output", output);
  expect_width("linear input", input, weight.in_features);
  expect_width("linear output", output, weight.out_features);
  expect_rows("linear input", input, output.rows());
  baked_operation description{"linear",
                              fmt::format("{} -> {}", shape_text(input), shape_text(output)),
                              {writes(output), reads(input), reads(packed), reads(rows)}};
  if (bias.rank != 0) description.operands.push_back(reads(bias));
  return description;
}

baked_operation gated_linear(tensor_view output, tensor_view gate_up, tensor_view input,
                             const linear_weight& weight, tensor_view packed, tensor_view bias,
                             live_count rows) {
  expect_activation("gated_linear output", output);
  expect_type("gate_up", gate_up, output.type);
  expect_width("gate_up", gate_up, 2 * output.width());
  expect_rows("gate_up", gate_up, output.rows());
  baked_operation description = linear(gate_up, input, weight, packed, bias, rows);
  description.name = "gated_linear";
  description.parameters = fmt::format("{} -> {}", shape_text(input), shape_text(output));
  description.operands.push_back(writes(output));
  return description;
}

baked_operation mixture_of_experts(tensor_view output, tensor_view input, tensor_view router_logits,
                                   int32_t top_k, const std::vector<linear_weight>& gate_up,
                                   const std::vector<linear_weight>& down,
                                   const std::vector<tensor_view>& packed, live_count rows) {
  expect_activation("expert input", input);
  expect_type("expert output", output, dtype::f32);
  expect_type("router logits", router_logits, dtype::f32);
  expect_rows("expert input", input, output.rows());
  expect_rows("router logits", router_logits, output.rows());
  expect_experts(output, input, router_logits, gate_up, down);
  const size_t experts = gate_up.size();
  expect(top_k >= 1 && static_cast<size_t>(top_k) <= experts, "top_k {}, expected 1 to {}", top_k,
         experts);
  baked_operation description{
      "mixture_of_experts",
      fmt::format("{} experts={} top_k={}", shape_text(output), experts, top_k),
      {writes(output), reads(input), reads(router_logits), reads(rows)}};
  for (const auto& weights : packed) description.operands.push_back(reads(weights));
  return description;
}

// Rows by index.
baked_operation embed(tensor_view output, tensor_view resolved_ids, tensor_view token_ids,
                      tensor_view sampled, tensor_view table, const visual_slot& slot,
                      live_count tokens) {
  expect_activation("embed output", output);
  expect_type("embedding table", table, output.type);
  expect_type("visual pool", slot.pool, output.type);
  expect_width("embedding table", table, output.width());
  expect_width("visual pool", slot.pool, output.width());
  expect_rows("embedding table", table, 1);
  for (const auto& ids : {resolved_ids, token_ids, slot.row_map}) {
    expect_type("embed ids", ids, dtype::i32);
    expect_elements("embed ids", ids, output.rows());
  }
  expect_type("sampled ids", sampled, dtype::i32);
  return {"embed",
          fmt::format("{} from {}", shape_text(output), shape_text(table)),
          {writes(output), writes(resolved_ids), reads(token_ids), reads(sampled), reads(table),
           reads(slot.pool.at(0)), reads(slot.row_map), reads(tokens)}};
}

baked_operation gather_rows(tensor_view output, tensor_view input, tensor_view row_index,
                            live_count rows) {
  expect_type("gather input", input, output.type);
  expect_width("gather input", input, output.width());
  expect_rows("gather input", input, 1);
  expect_type("gather index", row_index, dtype::i32);
  expect_elements("gather index", row_index, output.rows());
  return {"gather_rows",
          fmt::format("{} from {}", shape_text(output), shape_text(input)),
          {writes(output), reads(input), reads(row_index), reads(rows)}};
}

baked_operation scatter_rows(tensor_view pool_level, tensor_view input, tensor_view destination,
                             live_count rows) {
  expect_type("scatter input", input, pool_level.type);
  expect_width("scatter input", input, pool_level.width());
  expect_type("scatter destination", destination, dtype::i32);
  expect_elements("scatter destination", destination, input.rows());
  return {"scatter_rows",
          fmt::format("{} to {}", shape_text(input), shape_text(pool_level)),
          {updates(pool_level), reads(input), reads(destination), reads(rows)}};
}

// Row by row.
baked_operation rms_norm(tensor_view output, tensor_view input, tensor_view weight, float epsilon,
                         live_count rows) {
  expect_activation("rms_norm output", output);
  expect_type("rms_norm input", input, output.type);
  expect_type("rms_norm weight", weight, output.type);
  expect_width("rms_norm input", input, output.width());
  expect_width("rms_norm weight", weight, output.width());
  expect_rows("rms_norm input", input, output.rows());
  return {"rms_norm",
          fmt::format("{} epsilon={}", shape_text(output), epsilon),
          {writes(output), reads(input), reads(weight), reads(rows)}};
}

baked_operation layer_norm(tensor_view output, tensor_view input, tensor_view weight,
                           tensor_view bias, float epsilon, live_count rows) {
  expect_activation("layer_norm output", output);
  for (const auto& operand : {input, weight, bias}) {
    expect_type("layer_norm operand", operand, output.type);
    expect_width("layer_norm operand", operand, output.width());
  }
  expect_rows("layer_norm input", input, output.rows());
  return {"layer_norm",
          fmt::format("{} epsilon={}", shape_text(output), epsilon),
          {writes(output), reads(input), reads(weight), reads(bias), reads(rows)}};
}

baked_operation gelu(tensor_view output, tensor_view input, gelu_kind kind, live_count rows) {
  expect_activation("gelu output", output);
  expect_type("gelu input", input, output.type);
  expect_width("gelu input", input, output.width());
  expect_rows("gelu input", input, output.rows());
  return {kind == gelu_kind::tanh ? "gelu_tanh" : "gelu_erf",
          shape_text(output),
          {writes(output), reads(input), reads(rows)}};
}

baked_operation add(tensor_view x, tensor_view y, live_count rows) {
  expect_activation("add target", x);
  expect_type("add operand", y, x.type);
  expect_width("add operand", y, x.width());
  expect_rows("add operand", y, x.rows());
  return {"add", shape_text(x), {updates(x), reads(y), reads(rows)}};
}

// Attention.
baked_operation qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight,
                                         tensor_view k_weight, float epsilon, tensor_view positions,
                                         const text_rotary& rotary, tensor_view slot_mapping,
                                         const paged_kv& cache, live_count tokens) {
  expect_activation("qkv", qkv);
  expect_cache(cache, qkv);
  const int64_t head_dim = cache.blocks.width();
  for (const auto& weight : {q_weight, k_weight}) {
    expect_type("q or k norm weight", weight, qkv.type);
    expect_width("q or k norm weight", weight, head_dim);
  }
  expect_type("positions", positions, dtype::i32);
  expect(positions.rows() == 3 && positions.width() >= qkv.rows(),
         "positions are {}, expected 3 rows of at least {}", shape_text(positions), qkv.rows());
  expect_type("slot_mapping", slot_mapping, dtype::i32);
  expect_elements("slot_mapping", slot_mapping, qkv.rows());
  expect_rotary(rotary, head_dim);
  return {"qk_norm_rope_cache_write",
          fmt::format("{} kv_heads={} block_size={} epsilon={} factor={}", shape_text(qkv),
                      cache.num_kv_heads, cache.block_size, epsilon, rotary.attention_factor),
          {updates(qkv), reads(q_weight), reads(k_weight), reads(positions),
           reads(rotary.inverse_frequency), reads(rotary.axis), reads(slot_mapping),
           updates(cache.blocks), reads(tokens)}};
}

baked_operation paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                                const sequence_batch& batch, live_count tokens) {
  expect_activation("attention output", output);
  expect_type("qkv", qkv, output.type);
  expect_cache(cache, qkv);
  expect_batch(batch);
  expect_rows("qkv", qkv, output.rows());
  expect_width("attention output", output, query_heads(qkv, cache) * cache.blocks.width());
  return {"paged_attention",
          fmt::format("{} kv_heads={} block_size={}", shape_text(output), cache.num_kv_heads,
                      cache.block_size),
          {writes(output), reads(qkv), reads(cache.blocks), reads(batch.query_start),
           reads(batch.context_lengths), reads(batch.block_tables), reads(batch.sequences),
           reads(tokens)}};
}

baked_operation norm_rope_attention(tensor_view output, tensor_view qkv, const head_rotation& heads,
                                    const paged_kv& cache, const sequence_batch& batch,
                                    live_count tokens) {
  baked_operation description = qk_norm_rope_cache_write(
      qkv, heads.q_weight, heads.k_weight, heads.epsilon, heads.positions, heads.rotary,
      heads.slot_mapping, cache, tokens);
  const baked_operation attention = paged_attention(output, qkv, cache, batch, tokens);
  description.name = "norm_rope_attention";
  description.operands.insert(description.operands.end(), attention.operands.begin(),
                              attention.operands.end());
  return description;
}

baked_operation add_position_embedding(tensor_view x, tensor_view table, int32_t side,
                                       tensor_view coordinates, live_count patches) {
  expect_activation("patches", x);
  expect_type("position table", table, x.type);
  expect_width("position table", table, x.width());
  expect(side > 0 && table.rows() == int64_t{side} * side,
         "position table has {} rows, expected {} squared", table.rows(), side);
  expect_coordinates(coordinates, x.rows());
  return {"add_position_embedding",
          fmt::format("{} side={}", shape_text(x), side),
          {updates(x), reads(table), reads(coordinates), reads(patches)}};
}

baked_operation vision_rope(tensor_view qkv, int32_t num_heads, tensor_view coordinates,
                            float theta, live_count patches) {
  expect_activation("qkv", qkv);
  vision_head_dim(qkv, num_heads);
  expect_coordinates(coordinates, qkv.rows());
  return {"vision_rope",
          fmt::format("{} heads={} theta={}", shape_text(qkv), num_heads, theta),
          {updates(qkv), reads(coordinates), reads(patches)}};
}

baked_operation segment_attention(tensor_view output, tensor_view qkv, int32_t num_heads,
                                  tensor_view segment_start, live_count segments,
                                  live_count patches) {
  expect_activation("attention output", output);
  expect_type("qkv", qkv, output.type);
  expect_width("attention output", output, num_heads * vision_head_dim(qkv, num_heads));
  expect_rows("qkv", qkv, output.rows());
  expect_type("segment_start", segment_start, dtype::i32);
  expect_elements("segment_start", segment_start, 1);
  return {"segment_attention",
          fmt::format("{} heads={}", shape_text(output), num_heads),
          {writes(output), reads(qkv), reads(segment_start), reads(segments), reads(patches)}};
}

// Between ranks.
baked_operation all_reduce_add_norm(tensor_view normed, tensor_view residual, tensor_view partial,
                                    tensor_view norm_weight, float epsilon, const visual_slot& slot,
                                    int32_t deepstack_level, const lane_view& lane,
                                    live_count rows) {
  const int64_t capacity = residual.rows(), width = residual.width();
  expect_activation("residual", residual);
  for (const auto& view : {normed, norm_weight, slot.pool}) {
    expect_type("all_reduce_add_norm operand", view, residual.type);
    expect_width("all_reduce_add_norm operand", view, width);
  }
  expect_type("partial sums", partial, dtype::f32);
  expect_width("partial sums", partial, width);
  expect_rows("partial sums", partial, capacity);
  expect_rows("normed", normed, capacity);
  expect_type("row map", slot.row_map, dtype::i32);
  expect_elements("row map", slot.row_map, capacity);
  expect(deepstack_level >= -1 && deepstack_level < slot.pool.shape[0],
         "deepstack level {}, expected -1 to {}", deepstack_level, slot.pool.shape[0] - 1);
  expect_lane(lane, partial.slice_rows(0, capacity));
  baked_operation description{
      "all_reduce_add_norm",
      fmt::format("{} epsilon={} deepstack_level={} ranks={}", shape_text(residual), epsilon,
                  deepstack_level, lane.size),
      {writes(normed), updates(residual), reads(partial), reads(norm_weight), reads(rows)}};
  if (deepstack_level >= 0) {
    description.operands.push_back(reads(slot.pool.at(deepstack_level)));
    description.operands.push_back(reads(slot.row_map));
  }
  append_lane(description, lane);
  return description;
}

baked_operation all_gather_columns(tensor_view output, tensor_view part, const lane_view& lane,
                                   live_count rows) {
  expect_type("gathered columns", output, dtype::f32);
  expect_type("part of the columns", part, dtype::f32);
  expect_width("gathered columns", output, lane.size * part.width());
  expect_rows("part of the columns", part, output.rows());
  expect_lane(lane, part.slice_rows(0, output.rows()));
  baked_operation description{"all_gather_columns",
                              fmt::format("{} ranks={}", shape_text(output), lane.size),
                              {writes(output), reads(part), reads(rows)}};
  append_lane(description, lane);
  return description;
}

// Sampling.
baked_operation sample(const sampling_output& output, tensor_view logits, tensor_view settings,
                       tensor_view adjustments, live_count num_adjustments,
                       tensor_view resolved_ids, tensor_view token_mask, live_count rows) {
  const int64_t capacity = logits.rows();
  expect_type("logits", logits, dtype::f32);
  expect_type("resolved ids", resolved_ids, dtype::i32);
  expect_type("token mask", token_mask, dtype::u8);
  expect_elements("token mask", token_mask, logits.width());
  expect_elements(
      "sampling settings", settings,
      capacity * static_cast<int64_t>(sizeof(plan::sampling_row)) / size_of(settings.type));
  expect_elements("sampled tokens", output.tokens, capacity);
  expect_elements("logprobs", output.logprobs, capacity);
  for (const auto& view : {output.top_tokens, output.top_logprobs}) {
    expect_rows("alternatives", view, capacity);
    expect_width("alternatives", view, plan::max_logprobs);
  }
  return {"sample",
          shape_text(logits),
          {writes(output.tokens), writes(output.logprobs), writes(output.top_tokens),
           writes(output.top_logprobs), reads(logits), reads(settings), reads(adjustments),
           reads(num_adjustments), reads(resolved_ids), reads(token_mask), reads(rows)}};
}

}  // namespace troupe::gpu::described
