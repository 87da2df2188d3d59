#include "gpu/cpu/attention_tasks.hpp"
#include "gpu/cpu/cpu_operations.hpp"
#include "gpu/cpu/experts.hpp"
#include "gpu/cpu/lane.hpp"
#include "gpu/cpu/operands.hpp"
#include "gpu/cpu/sampler.hpp"
#include "gpu/cpu/typed.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace troupe::gpu::cpu {
namespace {

// Tokens, or rows of hidden states, that make it worth waking a thread.
constexpr int64_t token_grain = 4;

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

/// query heads that lie before the keys and values in a row of qkv.
int64_t q_heads_of(const tensor_view& qkv, const paged_kv& cache) {
  const int64_t head_dim = cache.blocks.width();
  return qkv.width() / head_dim - 2 * int64_t{cache.num_kv_heads};
}

void expect_cache(const paged_kv& cache, const tensor_view& qkv) {
  const int64_t head_dim = cache.blocks.width();
  expect_type("KV cache", cache.blocks, qkv.type);
  expect(cache.blocks.rank == 4 && cache.blocks.contiguous() &&
             cache.blocks.shape[1] == cache.num_kv_heads &&
             cache.blocks.shape[2] == cache.block_size && cache.num_kv_heads > 0 &&
             cache.block_size > 0,
         "KV cache is [{}, {}, {}, {}], expected [blocks * 2, {}, {}, head_dim]",
         cache.blocks.shape[0], cache.blocks.shape[1], cache.blocks.shape[2], cache.blocks.shape[3],
         cache.num_kv_heads, cache.block_size);
  expect(head_dim % 8 == 0 && head_dim > 0 && head_dim <= head_dim_max,
         "head_dim {}, expected a multiple of 8 up to {}", head_dim, head_dim_max);
  const int64_t q_heads = q_heads_of(qkv, cache);
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

}  // namespace

void cpu_operations::qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight,
                                              tensor_view k_weight, float epsilon,
                                              tensor_view positions, const text_rotary& rotary,
                                              tensor_view slot_mapping, const paged_kv& cache,
                                              live_count tokens) {
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
  expect_type("inverse_frequency", rotary.inverse_frequency, dtype::f32);
  expect_type("rotary axis", rotary.axis, dtype::i32);
  expect_elements("inverse_frequency", rotary.inverse_frequency, head_dim / 2);
  expect_elements("rotary axis", rotary.axis, head_dim / 2);
  with_activation(qkv.type, [&]<class T>(T) {
    const text_rope_arguments<T> arguments{rows_of<T>(qkv),
                                           static_cast<int32_t>(q_heads_of(qkv, cache)),
                                           cache.num_kv_heads,
                                           head_dim,
                                           q_weight.as<T>(),
                                           k_weight.as<T>(),
                                           epsilon,
                                           rows_of<const int32_t>(positions),
                                           rotary.inverse_frequency.as<float>(),
                                           rotary.axis.as<int32_t>(),
                                           rotary.attention_factor,
                                           slot_mapping.as<int32_t>(),
                                           cache.blocks.as<T>(),
                                           cache.block_size};
    issue("qk_norm_rope_cache_write",
          fmt::format("{} kv_heads={} block_size={} epsilon={} factor={}", shape_text(qkv),
                      cache.num_kv_heads, cache.block_size, epsilon, rotary.attention_factor),
          {updates(qkv), reads(q_weight), reads(k_weight), reads(positions),
           reads(rotary.inverse_frequency), reads(rotary.axis), reads(slot_mapping),
           updates(cache.blocks), reads(tokens)},
          [context = context_.get(), arguments, tokens, capacity = qkv.rows()] {
            context->threads.for_rows(
                live_rows(tokens, capacity), token_grain, [&](row_range range) {
                  activations_of<T>(context->kernels).qk_norm_rope_cache_write(arguments, range);
                });
          });
  });
}

void cpu_operations::paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                                     const sequence_batch& batch, live_count tokens) {
  expect_activation("attention output", output);
  expect_type("qkv", qkv, output.type);
  expect_cache(cache, qkv);
  expect_batch(batch);
  expect_rows("qkv", qkv, output.rows());
  const int64_t head_dim = cache.blocks.width();
  const paged_attention_call call{output, qkv, cache, batch, q_heads_of(qkv, cache), head_dim};
  expect_width("attention output", output, call.num_q_heads * head_dim);
  expect(call.num_q_heads / cache.num_kv_heads <= attention_rows_max,
         "{} query heads share a key-value head, expected at most {}",
         call.num_q_heads / cache.num_kv_heads, attention_rows_max);
  reserve_attention_scratch(*context_, head_dim, batch.context_lengths.elements());
  issue("paged_attention",
        fmt::format("{} kv_heads={} block_size={}", shape_text(output), cache.num_kv_heads,
                    cache.block_size),
        {writes(output), reads(qkv), reads(cache.blocks), reads(batch.query_start),
         reads(batch.context_lengths), reads(batch.block_tables), reads(batch.sequences),
         reads(tokens)},
        [context = context_.get(), call, tokens] {
          attend_sequences(*context, call, live_rows(tokens, call.output.rows()));
        });
}

void cpu_operations::all_reduce_add_norm(tensor_view normed, tensor_view residual,
                                         tensor_view partial, tensor_view norm_weight,
                                         float epsilon, const visual_slot& slot,
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

  const bool deepstack = deepstack_level >= 0;
  const tensor_view level = slot.pool.at(std::max(deepstack_level, 0));
  baked_operation description{
      "all_reduce_add_norm",
      fmt::format("{} epsilon={} deepstack_level={} ranks={}", shape_text(residual), epsilon,
                  deepstack_level, lane.size),
      {writes(normed), updates(residual), reads(partial), reads(norm_weight), reads(rows)}};
  if (deepstack) {
    description.operands.push_back(reads(level));
    description.operands.push_back(reads(slot.row_map));
  }
  append_lane(description, lane);
  with_activation(residual.type, [&]<class T>(T) {
    add_norm_arguments<T> arguments{};
    arguments.normed = rows_of<T>(normed);
    arguments.residual = rows_of<T>(residual);
    arguments.num_parts = lane.size;
    arguments.part_stride = lane.size == 1 ? partial.row_stride : width;
    arguments.weight = norm_weight.as<T>();
    arguments.epsilon = epsilon;
    arguments.width = width;
    arguments.row_map = deepstack ? slot.row_map.as<int32_t>() : nullptr;
    arguments.pool = rows_of<const T>(level);
    arguments.pool_rows = level.rows();
    issue(std::move(description),
          [context = context_.get(), arguments, partial, lane, rows, capacity] {
            const int64_t live = live_rows(rows, capacity);
            const lane_round round = exchange(lane, partial, live);
            std::array<const float*, max_ranks> parts{};
            for (size_t rank = 0; rank < parts.size(); ++rank)
              parts[rank] = reinterpret_cast<const float*>(round.parts[rank]);
            auto now = arguments;
            now.parts = parts.data();
            context->threads.for_rows(live, token_grain, [&](row_range range) {
              activations_of<T>(context->kernels).add_norm(now, range);
            });
          });
  });
}

void cpu_operations::all_gather_columns(tensor_view output, tensor_view part, const lane_view& lane,
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
  issue(std::move(description), [=] {
    const int64_t live = live_rows(rows, output.rows());
    const lane_round round = exchange(lane, part, live);
    const int64_t part_bytes = part.width() * size_of(part.type);
    const int64_t stride_bytes =
        (lane.size == 1 ? part.row_stride : part.width()) * size_of(part.type);
    for (int64_t row = 0; row < live; ++row)
      for (int32_t rank = 0; rank < lane.size; ++rank)
        std::memcpy(
            output.data + row * output.row_stride * size_of(output.type) + rank * part_bytes,
            round.parts[static_cast<size_t>(rank)] + row * stride_bytes,
            static_cast<size_t>(part_bytes));
  });
}

void cpu_operations::mixture_of_experts(tensor_view output, tensor_view input,
                                        tensor_view router_logits, int32_t top_k,
                                        const std::vector<linear_weight>& gate_up,
                                        const std::vector<linear_weight>& down, live_count rows) {
  expect_activation("expert input", input);
  expect_type("expert output", output, dtype::f32);
  expect_type("router logits", router_logits, dtype::f32);
  expect_rows("expert input", input, output.rows());
  expect_rows("router logits", router_logits, output.rows());
  const auto experts = static_cast<int64_t>(gate_up.size());
  expect(experts > 0 && gate_up.size() == down.size() && router_logits.width() == experts,
         "{} gate_up and {} down weights for {} router logits", gate_up.size(), down.size(),
         router_logits.width());
  expect(top_k >= 1 && top_k <= experts, "top_k {}, expected 1 to {}", top_k, experts);
  for (size_t i = 0; i < down.size(); ++i)
    expect(gate_up[i].in_features == input.width() &&
               gate_up[i].out_features == 2 * down.front().in_features &&
               down[i].in_features == down.front().in_features &&
               down[i].out_features == output.width(),
           "expert {} maps {} -> {}, {} -> {}", i, gate_up[i].in_features, gate_up[i].out_features,
           down[i].in_features, down[i].out_features);
  auto call = prepare_experts(*context_, output, input, router_logits, top_k, gate_up, down);
  baked_operation description{
      "mixture_of_experts",
      fmt::format("{} experts={} top_k={}", shape_text(output), experts, top_k),
      {writes(output), reads(input), reads(router_logits), reads(rows)}};
  for (const auto* weights : {&gate_up, &down})
    for (const auto& weight : *weights)
      description.operands.push_back(reads(context_->products.packed(weight.index)));
  issue(std::move(description), [context = context_.get(), call = std::move(call), rows] {
    run_experts(*context, call, live_rows(rows, call.capacity()));
  });
}

// Sampling.
namespace {

struct sample_call {
  sampling_output output;
  tensor_view logits, settings, adjustments, resolved_ids, token_mask;
  live_count num_adjustments;

  std::span<const plan::logit_adjustment> adjustments_of(int64_t row) const {
    const auto* first = adjustments.as<const plan::logit_adjustment>();
    const int64_t capacity =
        adjustments.elements() / static_cast<int64_t>(sizeof(plan::logit_adjustment));
    const auto* last = first + live_rows(num_adjustments, capacity);
    const auto before = [](const plan::logit_adjustment& entry, int64_t value) {
      return entry.row < value;
    };
    return {std::lower_bound(first, last, row, before),
            std::lower_bound(first, last, row + 1, before)};
  }

  sampler_input input_of(int64_t row) const {
    const auto vocab = static_cast<size_t>(logits.width());
    sampler_input input;
    input.logits = {logits.as<float>() + row * logits.row_stride, vocab};
    input.token_mask = {token_mask.as<uint8_t>(), vocab};
    input.settings = settings.as<plan::sampling_row>()[row];
    input.adjustments = adjustments_of(row);
    const int64_t late = input.settings.input_index;
    if (late >= 0 && late < resolved_ids.elements())
      input.late_token = resolved_ids.as<int32_t>()[late];
    return input;
  }

  void run(const context& context, int64_t row, int32_t thread) const {
    const auto vocab = static_cast<size_t>(logits.width());
    auto* memory = context.thread_scratch.as<float>() + static_cast<size_t>(thread) * 2 * vocab;
    const sampler_scratch scratch{{memory, vocab},
                                  {reinterpret_cast<int32_t*>(memory + vocab), vocab}};
    sampler_result result;
    result.top_tokens = {output.top_tokens.at(row).as<int32_t>(), plan::max_logprobs};
    result.top_logprobs = {output.top_logprobs.at(row).as<float>(), plan::max_logprobs};
    sample_row(context.kernels, input_of(row), scratch, result);
    output.tokens.as<int32_t>()[row] = result.token;
    output.logprobs.as<float>()[row] = result.logprob;
  }
};

}  // namespace

void cpu_operations::sample(const sampling_output& output, tensor_view logits, tensor_view settings,
                            tensor_view adjustments, live_count num_adjustments,
                            tensor_view resolved_ids, tensor_view token_mask, live_count rows) {
  const int64_t capacity = logits.rows(), vocab = logits.width();
  expect_type("logits", logits, dtype::f32);
  expect_type("resolved ids", resolved_ids, dtype::i32);
  expect_type("token mask", token_mask, dtype::u8);
  expect_elements("token mask", token_mask, vocab);
  expect_elements(
      "sampling settings", settings,
      capacity * static_cast<int64_t>(sizeof(plan::sampling_row)) / size_of(settings.type));
  expect_elements("sampled tokens", output.tokens, capacity);
  expect_elements("logprobs", output.logprobs, capacity);
  for (const auto& view : {output.top_tokens, output.top_logprobs}) {
    expect_rows("alternatives", view, capacity);
    expect_width("alternatives", view, plan::max_logprobs);
  }
  context_->thread_scratch.reserve(context_->threads.size() * 2 * vocab * size_of(dtype::f32));
  const sample_call call{output,       logits,     settings,       adjustments,
                         resolved_ids, token_mask, num_adjustments};
  issue("sample", shape_text(logits),
        {writes(output.tokens), writes(output.logprobs), writes(output.top_tokens),
         writes(output.top_logprobs), reads(logits), reads(settings), reads(adjustments),
         reads(num_adjustments), reads(resolved_ids), reads(token_mask), reads(rows)},
        [context = context_.get(), call, rows, capacity] {
          context->threads.for_tasks(live_rows(rows, capacity), [&](int64_t row, int32_t thread) {
            call.run(*context, row, thread);
          });
        });
}

}  // namespace troupe::gpu::cpu
