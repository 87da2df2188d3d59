#include "gpu/cpu/attention_tasks.hpp"
#include "gpu/cpu/cpu_operations.hpp"
#include "gpu/cpu/experts.hpp"
#include "gpu/cpu/lane.hpp"
#include "gpu/cpu/live_rows.hpp"
#include "gpu/cpu/sampler.hpp"
#include "gpu/cpu/typed.hpp"
#include "gpu/described.hpp"
#include "gpu/operands.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

namespace troupe::gpu::cpu {
namespace {

// Tokens, or rows of hidden states, that make it worth waking a thread.
constexpr int64_t token_grain = 4;

/// What the kernels' tables on the stack and their vectors ask for.
void expect_head_dim(int64_t head_dim) {
  expect(head_dim % 8 == 0 && head_dim <= head_dim_max,
         "head_dim {}, expected a multiple of 8 up to {}", head_dim, head_dim_max);
}

}  // namespace

void cpu_operations::qk_norm_rope_cache_write(tensor_view qkv, tensor_view q_weight,
                                              tensor_view k_weight, float epsilon,
                                              tensor_view positions, const text_rotary& rotary,
                                              tensor_view slot_mapping, const paged_kv& cache,
                                              live_count tokens) {
  auto description = described::qk_norm_rope_cache_write(
      qkv, q_weight, k_weight, epsilon, positions, rotary, slot_mapping, cache, tokens);
  const int64_t head_dim = cache.blocks.width();
  expect_head_dim(head_dim);
  with_activation(qkv.type, [&]<class T>(T) {
    const text_rope_arguments<T> arguments{rows_of<T>(qkv),
                                           static_cast<int32_t>(described::query_heads(qkv, cache)),
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
    issue(std::move(description), [context = context_.get(), arguments, tokens,
                                   capacity = qkv.rows()] {
      context->threads.for_rows(live_rows(tokens, capacity), token_grain, [&](row_range range) {
        activations_of<T>(context->kernels).qk_norm_rope_cache_write(arguments, range);
      });
    });
  });
}

void cpu_operations::paged_attention(tensor_view output, tensor_view qkv, const paged_kv& cache,
                                     const sequence_batch& batch, live_count tokens) {
  auto description = described::paged_attention(output, qkv, cache, batch, tokens);
  const int64_t head_dim = cache.blocks.width();
  const paged_attention_call call{output,  qkv, cache, batch, described::query_heads(qkv, cache),
                                  head_dim};
  expect_head_dim(head_dim);
  expect(call.num_q_heads / cache.num_kv_heads <= attention_rows_max,
         "{} query heads share a key-value head, expected at most {}",
         call.num_q_heads / cache.num_kv_heads, attention_rows_max);
  reserve_attention_scratch(*context_, head_dim, batch.context_lengths.elements());
  issue(std::move(description), [context = context_.get(), call, tokens] {
    attend_sequences(*context, call, live_rows(tokens, call.output.rows()));
  });
}

void cpu_operations::all_reduce_add_norm(tensor_view normed, tensor_view residual,
                                         tensor_view partial, tensor_view norm_weight,
                                         float epsilon, const visual_slot& slot,
                                         int32_t deepstack_level, const lane_view& lane,
                                         live_count rows) {
  auto description = described::all_reduce_add_norm(normed, residual, partial, norm_weight, epsilon,
                                                    slot, deepstack_level, lane, rows);
  const int64_t capacity = residual.rows(), width = residual.width();
  const bool deepstack = deepstack_level >= 0;
  const tensor_view level = slot.pool.at(std::max(deepstack_level, 0));
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
  issue(described::all_gather_columns(output, part, lane, rows), [=] {
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
  std::vector<tensor_view> packed;
  for (const auto* weights : {&gate_up, &down})
    for (const auto& weight : *weights) packed.push_back(context_->products.packed(weight.index));
  auto description = described::mixture_of_experts(output, input, router_logits, top_k, gate_up,
                                                   down, packed, rows);
  auto call = prepare_experts(*context_, output, input, router_logits, top_k, gate_up, down);
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
  auto description = described::sample(output, logits, settings, adjustments, num_adjustments,
                                       resolved_ids, token_mask, rows);
  const int64_t capacity = logits.rows(), vocab = logits.width();
  context_->thread_scratch.reserve(context_->threads.size() * 2 * vocab * size_of(dtype::f32));
  const sample_call call{output,       logits,     settings,       adjustments,
                         resolved_ids, token_mask, num_adjustments};
  issue(std::move(description), [context = context_.get(), call, rows, capacity] {
    context->threads.for_tasks(live_rows(rows, capacity), [&](int64_t row, int32_t thread) {
      call.run(*context, row, thread);
    });
  });
}

}  // namespace troupe::gpu::cpu
