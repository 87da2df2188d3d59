#pragma once

#include "gpu/cuda/kernels/attention_tasks.cuh"
#include "gpu/cuda/kernels/launch.cuh"

#include <cstdint>

/// Attention of any type and head size, one warp per token and query head, in fp32. For checks and
/// for shapes that no checkpoint of a size that matters has.
namespace troupe::gpu::cuda::rows {

constexpr int32_t head_dim_max = 128;
constexpr int32_t block_warps = 4;
constexpr int32_t lane_values = head_dim_max / warp_size;

/// One warp's query and what it has summed: lane i owns dimensions i, i + 32, ..
template <class T, class Keys>
struct row {
  const attention_call<T, Keys>& p;
  typename Keys::reader reader;
  const float* query;  // in shared memory
  int32_t lane;
  float sums[lane_values] = {};
  float peak = -infinity();
  float total = 0;

  __device__ float score(int32_t key) const {
    const T* address = reader.row(key);
    float sum = 0;
    for (int32_t i = 0; i < p.head_dim; i += vector16<T>::size) {
      const vector16<T> part = load16(address + i);
#pragma unroll
      for (int32_t j = 0; j < vector16<T>::size; ++j) sum = fmaf(query[i + j], part.get(j), sum);
    }
    return sum * p.scale_log2;
  }

  /// A lane a key: scores; then all lanes together, key by key: values.
  __device__ void attend(int32_t first, int32_t visible) {
    const int32_t key = first + lane;
    const float own = key < visible ? score(key) : -infinity();
    const float largest = fmaxf(peak, warp_max(own));
    const float shrink = exp2f(peak - largest);
    const float weight = exp2f(own - largest);
    peak = largest;
    total = total * shrink + warp_sum(weight);
#pragma unroll
    for (float& sum : sums) sum *= shrink;
    for (int32_t i = 0; i < min(warp_size, visible - first); ++i) {
      const T* value = reader.row(first + i) + reader.value_offset();
      const float key_weight = __shfl_sync(all_lanes, weight, i);
#pragma unroll
      for (int32_t j = 0; j < lane_values; ++j) {
        const int32_t column = j * warp_size + lane;
        if (column < p.head_dim) sums[j] = fmaf(key_weight, to_f32(value[column]), sums[j]);
      }
    }
  }

  __device__ void store(T* output) const {
#pragma unroll
    for (int32_t j = 0; j < lane_values; ++j) {
      const int32_t column = j * warp_size + lane;
      if (column < p.head_dim) output[column] = from_f32<T>(sums[j] / total);
    }
  }
};

template <class T, class Keys>
__global__ void __launch_bounds__(block_warps* warp_size)
    row_attention_kernel(const __grid_constant__ attention_call<T, Keys> p) {
  __shared__ float queries[block_warps][head_dim_max];
  release_successor();
  wait_for_predecessor();
  const auto warp = static_cast<int32_t>(threadIdx.x) / warp_size;
  const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
  const int32_t heads = p.num_kv_heads * p.group;
  const auto token = static_cast<int32_t>((blockIdx.x * block_warps + threadIdx.x / warp_size) /
                                          static_cast<uint32_t>(heads));
  const auto head = static_cast<int32_t>((blockIdx.x * block_warps + threadIdx.x / warp_size) %
                                         static_cast<uint32_t>(heads));
  const int32_t sequences = p.step.live_sequences();
  if (sequences == 0 || token < p.step.start[0]) return;
  const int32_t sequence = last_at_most(p.step.start, sequences, token);
  const sequence_span span = p.step.at(sequence);
  const int32_t place = token - span.first;
  if (place >= span.tokens) return;

  const T* query = p.query_row(token, head);
  for (int32_t i = lane; i < p.head_dim; i += warp_size) queries[warp][i] = to_f32(query[i]);
  __syncwarp();
  row<T, Keys> state{p, p.keys.of(sequence, span, head / p.group), queries[warp], lane};
  const int32_t visible = p.visible_keys(span, place);
  for (int32_t first = 0; first < visible; first += warp_size) state.attend(first, visible);
  state.store(p.output_row(token, head));
}

template <class T, class Keys>
void launch(const char* name, const attention_call<T, Keys>& call, const launch_context& on) {
  const int64_t warps = int64_t{call.step.max_tokens} * call.num_kv_heads * call.group;
  launch_kernel(name, row_attention_kernel<T, Keys>,
                dim3(static_cast<uint32_t>((warps + block_warps - 1) / block_warps)),
                dim3(block_warps * warp_size), 0, on, call);
}

}  // namespace troupe::gpu::cuda::rows
