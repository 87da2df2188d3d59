#include "gpu/cuda/kernels/attention_decode.cuh"
#include "gpu/cuda/kernels/attention_paged.hpp"
#include "gpu/cuda/kernels/attention_rows.cuh"
#include "gpu/cuda/kernels/attention_tiles.cuh"
#include "gpu/error.hpp"

#include <algorithm>
#include <bit>
#include <string>

namespace troupe::gpu::cuda {
namespace {

constexpr const char* kernel_name = "paged_attention";

template <class T>
using paged_call = attention_call<T, paged_keys<T>>;

template <class T>
paged_call<T> call_of(const paged_attention_arguments& a) {
  const int32_t log2_block_size = std::countr_zero(static_cast<uint32_t>(a.block_size));
  return {static_cast<T*>(a.output),
          a.output_stride,
          static_cast<const T*>(a.qkv),
          a.qkv_stride,
          {static_cast<const T*>(a.cache), a.block_tables, a.block_tables_stride, log2_block_size,
           a.num_kv_heads, a.head_dim},
          {a.query_start, a.context_lengths, a.sequences, a.tokens,
           std::min(a.max_sequences, a.max_tokens), a.max_tokens},
          a.num_kv_heads,
          a.num_q_heads / a.num_kv_heads,
          a.head_dim,
          1,
          true,
          scale_log2(a.head_dim)};
}

decode::new_heads heads_of(const new_head_arguments& a) {
  return {static_cast<const bf16*>(a.q_weight),
          static_cast<const bf16*>(a.k_weight),
          {a.positions, a.inverse_frequency, a.axis, a.positions_stride, a.attention_factor},
          a.epsilon,
          a.slot_mapping,
          static_cast<bf16*>(a.cache)};
}

template <int32_t head_dim, int32_t row_tiles, bool rotates>
void launch_decode_rows(const paged_attention_arguments& a, const new_head_arguments& heads,
                        const paged_call<bf16>& call, const launch_context& on) {
  constexpr int32_t num_stages = 2;  // more do not read faster, and leave the neighbours less room
  constexpr auto* kernel =
      decode::decode_attention_kernel<head_dim, num_stages, row_tiles, rotates>;
  const int32_t splits = decode::max_splits(a.num_kv_heads);
  const decode::parameters parameters{
      call, heads_of(heads), decode::task_rows(call.group) / call.group, splits,
      decode::cut_scratch(a.scratch, a.num_q_heads, a.num_kv_heads, a.max_sequences)};
  const int64_t tasks =
      int64_t{call.step.max_sequences} * std::max(splits, decode_tokens_max) * a.num_kv_heads;
  const uint32_t bytes = decode::shared_bytes<head_dim, num_stages>(call.step.max_sequences);
  allow_shared_memory(kernel_name, kernel, bytes);
  launch_kernel(kernel_name, kernel,
                dim3(static_cast<uint32_t>(std::min<int64_t>(tasks, on.num_sms))),
                dim3(decode::block_threads), bytes, on, parameters);
}

template <int32_t head_dim, bool rotates>
void launch_decode(const paged_attention_arguments& a, const new_head_arguments& heads,
                   const paged_call<bf16>& call, const launch_context& on) {
  if (decode::task_rows(call.group) == 8)
    launch_decode_rows<head_dim, 1, rotates>(a, heads, call, on);
  else
    launch_decode_rows<head_dim, 2, rotates>(a, heads, call, on);
}

template <int32_t head_dim>
void launch_prefill(paged_call<bf16> call, const launch_context& on) {
  constexpr int32_t num_groups = 2, num_slots = 5;
  using sizes = tiles::layout<head_dim, num_groups, num_slots>;
  constexpr auto* kernel =
      tiles::tile_attention_kernel<head_dim, num_groups, num_slots, paged_keys<bf16>>;
  call.shortest = decode_tokens_max + 1;
  const int32_t tile_tokens = sizes::rows / call.group;
  const int64_t tiles = call.step.max_tokens / tile_tokens +
                        std::min(call.step.max_sequences, call.step.max_tokens / call.shortest);
  allow_shared_memory(kernel_name, kernel, sizes::bytes);
  launch_kernel(kernel_name, kernel, dim3(static_cast<uint32_t>(tiles * call.num_kv_heads)),
                dim3(tiles::block_threads(num_groups)), sizes::bytes, on, call);
}

template <int32_t head_dim>
void launch_tensor_cores(const paged_attention_arguments& a, const launch_context& on) {
  const auto call = call_of<bf16>(a);
  launch_decode<head_dim, false>(a, {}, call, on);
  if (a.max_tokens > decode_tokens_max) launch_prefill<std::max(head_dim, 64)>(call, on);
}

}  // namespace

int64_t paged_attention_scratch_bytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim,
                                      int32_t max_sequences) {
  const int64_t rows = int64_t{max_sequences} * decode::max_splits(num_kv_heads) * num_q_heads;
  const int32_t group = std::clamp(num_q_heads / num_kv_heads, 1, attention_group_max);
  const int64_t arrivals = int64_t{max_sequences} * num_kv_heads *
                           decode::token_tiles_max(decode::task_rows(group) / group);
  if (arrivals > decode::arrivals_max)
    throw error("paged_attention of " + std::to_string(max_sequences) + " sequences needs " +
                std::to_string(arrivals) + " counters, expected at most " +
                std::to_string(decode::arrivals_max));
  return decode::counters_bytes +
         rows *
             static_cast<int64_t>(sizeof(float2) + sizeof(float) * static_cast<size_t>(head_dim));
}

bool takes_new_heads(const paged_attention_arguments& a) {
  return a.type == dtype::bf16 && a.max_tokens <= new_heads_tokens_max &&
         (a.head_dim == 128 || a.head_dim == 64 || a.head_dim == 32) &&
         a.num_q_heads / a.num_kv_heads <= attention_group_max;
}

void launch_new_heads_attention(const paged_attention_arguments& a, const new_head_arguments& heads,
                                const launch_context& on) {
  if (a.max_tokens == 0 || a.max_sequences == 0) return;
  const auto call = call_of<bf16>(a);
  switch (a.head_dim) {
    case 128:
      return launch_decode<128, true>(a, heads, call, on);
    case 64:
      return launch_decode<64, true>(a, heads, call, on);
    default:
      return launch_decode<32, true>(a, heads, call, on);
  }
}

void launch_paged_attention(const paged_attention_arguments& a, const launch_context& on) {
  if (a.max_tokens == 0 || a.max_sequences == 0) return;
  if (a.type == dtype::f32) return rows::launch(kernel_name, call_of<float>(a), on);
  const bool wide_group = a.num_q_heads / a.num_kv_heads > attention_group_max;
  switch (wide_group ? 0 : a.head_dim) {
    case 128:
      return launch_tensor_cores<128>(a, on);
    case 64:
      return launch_tensor_cores<64>(a, on);
    case 32:
      return launch_tensor_cores<32>(a, on);
    default:
      return rows::launch(kernel_name, call_of<bf16>(a), on);
  }
}

}  // namespace troupe::gpu::cuda
