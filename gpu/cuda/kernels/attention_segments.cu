#include "gpu/cuda/kernels/attention_rows.cuh"
#include "gpu/cuda/kernels/attention_segments.hpp"
#include "gpu/cuda/kernels/attention_tiles.cuh"

#include <algorithm>

namespace troupe::gpu::cuda {
namespace {

constexpr const char* kernel_name = "segment_attention";

template <class T>
using segment_call = attention_call<T, segment_keys<T>>;

template <class T>
segment_call<T> call_of(const segment_attention_arguments& a) {
  const int64_t heads_width = int64_t{a.num_heads} * a.head_dim;
  const auto* qkv = static_cast<const T*>(a.qkv);
  return {static_cast<T*>(a.output),
          a.output_stride,
          qkv,
          a.qkv_stride,
          {qkv + heads_width, a.qkv_stride, heads_width, a.head_dim},
          {a.segment_start, nullptr, a.segments, a.patches, a.max_segments, a.max_patches},
          a.num_heads,
          1,
          a.head_dim,
          1,
          false,
          scale_log2(a.head_dim)};
}

template <int32_t head_dim, int32_t num_groups, int32_t num_slots>
void launch_tiles(const segment_call<bf16>& call, const launch_context& on) {
  using sizes = tiles::layout<head_dim, num_groups, num_slots>;
  constexpr auto* kernel =
      tiles::tile_attention_kernel<head_dim, num_groups, num_slots, segment_keys<bf16>>;
  const int64_t tiles =
      call.step.max_tokens / sizes::rows + std::min(call.step.max_sequences, call.step.max_tokens);
  allow_shared_memory(kernel_name, kernel, sizes::bytes);
  launch_kernel(kernel_name, kernel, dim3(static_cast<uint32_t>(tiles * call.num_kv_heads)),
                dim3(tiles::block_threads(num_groups)), sizes::bytes, on, call);
}

}  // namespace

void launch_segment_attention(const segment_attention_arguments& a, const launch_context& on) {
  if (a.max_patches == 0 || a.max_segments == 0) return;
  if (a.type == dtype::f32) return rows::launch(kernel_name, call_of<float>(a), on);
  const auto call = call_of<bf16>(a);
  // Tiles of 192 rows overlap better, tiles of 128 fill the device sooner and have registers for heads of
  // more than 64 values. A row's bits are the same.
  const bool many = a.max_patches > 2048;
  if (a.head_dim <= 64)
    return many ? launch_tiles<64, 3, 6>(call, on) : launch_tiles<64, 2, 6>(call, on);
  if (a.head_dim <= 72) return launch_tiles<72, 2, 6>(call, on);
  launch_tiles<128, 2, 5>(call, on);
}

}  // namespace troupe::gpu::cuda
