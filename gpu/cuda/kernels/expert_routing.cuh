#pragma once

#include "gpu/cuda/kernels/expert_table.cuh"
#include "gpu/cuda/kernels/launch.cuh"

#include <cstdint>

namespace troupe::gpu::cuda {

constexpr int32_t route_warps = 4;
constexpr int32_t routed_experts_max = 1024;
constexpr int32_t top_k_max = warp_size;

/// One warp per row: softmax, the top_k largest, renormalised; weights of bf16 models are rounded
/// to bf16.
template <class T>
__global__ void __launch_bounds__(route_warps* warp_size)
    route_kernel(expert_table table, expert_sizes sizes, matrix<const float> router_logits,
                 const int32_t* live_rows) {
  __shared__ float probabilities[route_warps][routed_experts_max];
  release_successor();
  wait_for_predecessor();
  const auto warp = static_cast<int32_t>(threadIdx.x / warp_size);
  const auto lane = static_cast<int32_t>(threadIdx.x % warp_size);
  const int32_t row = static_cast<int32_t>(blockIdx.x) * route_warps + warp;
  if (row >= live(live_rows, sizes.capacity)) return;
  float* own = probabilities[warp];
  const float* logits = router_logits.row(row);
  float peak = -INFINITY;
  for (int32_t i = lane; i < sizes.num_experts; i += warp_size) peak = fmaxf(peak, logits[i]);
  peak = warp_max(peak);
  for (int32_t i = lane; i < sizes.num_experts; i += warp_size)
    own[i] = fmaxf(expf(logits[i] - peak), 0.0F);  // NaN becomes 0: some expert is chosen

  int32_t expert = sizes.num_experts;  // lane k holds choice k
  float weight = 0, total = 0;
  for (int32_t k = 0; k < sizes.top_k; ++k) {
    // Probabilities are not negative: they compare like their bits, and chosen ones below all.
    int32_t best = -1, place = 0;
    for (int32_t i = lane; i < sizes.num_experts; i += warp_size) {
      const int32_t bits = __float_as_int(own[i]);
      if (bits <= best) continue;
      best = bits;
      place = i;
    }
    const int32_t bits = __reduce_max_sync(all_lanes, best);
    const int32_t chosen = __reduce_min_sync(all_lanes, best == bits ? place : INT32_MAX);
    const float probability = __int_as_float(bits);
    total += probability;
    if (lane == k) {
      expert = chosen;
      weight = probability;
    }
    if (lane == chosen % warp_size) own[chosen] = -1;
  }
  int32_t place = 0;  // among the row's choices, by expert
  for (int32_t k = 0; k < sizes.top_k; ++k)
    place += static_cast<int32_t>(__shfl_sync(all_lanes, expert, k) < expert);
  if (lane >= sizes.top_k) return;
  const int32_t pair = row * sizes.top_k + place;
  table.experts[pair] = expert;
  table.weights[pair] = rounded<T>(weight / total);
}

constexpr int32_t list_threads = 512;
constexpr int32_t list_warps = list_threads / warp_size;

/// Sum over the experts below `expert` of function(count).
template <class Function>
__device__ int32_t sum_below(const int32_t* counts, int32_t expert, Function function,
                             float* shared) {
  float sum = 0;  // exact: far below 2^24
  for (auto i = static_cast<int32_t>(threadIdx.x); i < expert; i += list_threads)
    sum += static_cast<float>(function(counts[i]));
  sum = block_sum(sum, shared);
  __syncthreads();
  return static_cast<int32_t>(sum);
}

/// The experts of four neighbouring pairs, -1 for pairs past the end.
struct four_experts {
  int32_t values[4];

  __device__ four_experts(const expert_table& table, int32_t first, int32_t pairs) {
    int4 loaded{};
    if (first < pairs) loaded = *reinterpret_cast<const int4*>(table.experts + first);
    const int32_t experts[4] = {loaded.x, loaded.y, loaded.z, loaded.w};
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) values[i] = first + i < pairs ? experts[i] : -1;
  }
};

/// One block per expert: its members in the order of pairs. Every block counts all pairs, so that
/// none waits for another.
__global__ void __launch_bounds__(list_threads)
    list_members_kernel(expert_table table, expert_sizes sizes, const int32_t* live_rows) {
  __shared__ int32_t counts[routed_experts_max];
  __shared__ int32_t of_warps[2][list_warps];
  __shared__ float shared[list_warps];
  constexpr int32_t stretch = 4 * list_threads;
  release_successor();
  const auto thread = static_cast<int32_t>(threadIdx.x);
  for (int32_t i = thread; i < sizes.num_experts; i += list_threads) counts[i] = 0;
  wait_for_predecessor();
  __syncthreads();
  const int32_t pairs = live(live_rows, sizes.capacity) * sizes.top_k;
  const auto expert = static_cast<int32_t>(blockIdx.x);
  for (int32_t pair = 4 * thread; pair < pairs; pair += stretch) {
    const four_experts experts(table, pair, pairs);
#pragma unroll
    for (const int32_t of_pair : experts.values)
      if (of_pair >= 0) atomicAdd(&counts[of_pair], 1);
  }
  __syncthreads();
  const auto tiles_of = [](int32_t members) { return (members + tile_rows - 1) / tile_rows; };
  const int32_t first = sum_below(
      counts, expert, [](int32_t n) { return n; }, shared);
  const int32_t tiles = sum_below(counts, expert, tiles_of, shared);
  const int32_t active = sum_below(
      counts, expert, [](int32_t n) { return n > 0; }, shared);
  const int32_t count = counts[expert];
  if (thread == 0) {
    table.offsets[expert] = first;
    table.tile_starts[expert] = tiles;
    if (count > 0) table.active[active] = expert;
    if (expert == sizes.num_experts - 1) {
      table.offsets[expert + 1] = pairs;
      table.tile_starts[expert + 1] = tiles + tiles_of(count);
      *table.num_active = active + (count > 0);
    }
  }
  const int32_t warp = thread / warp_size, lane = thread % warp_size;
  int32_t place = first;
  for (int32_t start = 0, turn = 0; place < first + count; start += stretch, ++turn) {
    const int32_t pair = start + 4 * thread;
    const four_experts experts(table, pair, pairs);
    int32_t own = 0;
#pragma unroll
    for (const int32_t of_pair : experts.values) own += of_pair == expert;
    const int32_t inclusive = warp_inclusive_sum(own);
    int32_t* of_warp = of_warps[turn % 2];
    if (lane == warp_size - 1) of_warp[warp] = inclusive;
    __syncthreads();
    int32_t target = place + inclusive - own;
    for (int32_t i = 0; i < list_warps; ++i) {
      if (i < warp) target += of_warp[i];
      place += of_warp[i];
    }
#pragma unroll
    for (int32_t i = 0; i < 4; ++i)
      if (experts.values[i] == expert) table.members[target++] = pair + i;
  }
}

/// One block per row: the weighted sum of its pairs' rows, by ascending expert.
constexpr int32_t combine_threads = 256;
__global__ void __launch_bounds__(combine_threads)
    combine_kernel(matrix<float> output, const float* sums, expert_table table, expert_sizes sizes,
                   const int32_t* live_rows) {
  release_successor();
  wait_for_predecessor();
  const auto row = static_cast<int32_t>(blockIdx.x);
  if (row >= live(live_rows, sizes.capacity)) return;
  const int64_t first_pair = int64_t{row} * sizes.top_k;
  const float* of_row = sums + first_pair * sizes.hidden;
  for (int32_t i =
           static_cast<int32_t>(blockIdx.y) * combine_threads + static_cast<int32_t>(threadIdx.x);
       i < sizes.hidden; i += static_cast<int32_t>(gridDim.y) * combine_threads) {
    float total = 0;
#pragma unroll 8
    for (int32_t k = 0; k < sizes.top_k; ++k)
      total = fmaf(table.weights[first_pair + k], of_row[int64_t{k} * sizes.hidden + i], total);
    output.row(row)[i] = total;
  }
}

}  // namespace troupe::gpu::cuda
