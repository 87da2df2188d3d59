#pragma once

#include "gpu/cuda/kernels/rotary.cuh"
#include "gpu/cuda/kernels/typed.cuh"

/// What a block of the skinny product does once outputs are stored. Blocks draw tickets; whoever draws the
/// last one of a group finds all of the group's outputs in memory and goes on with them. Everything that
/// another block wrote is read past the first-level cache.
namespace troupe::gpu::cuda {

constexpr int32_t consumer_warps = 8;
constexpr int32_t consumer_threads = consumer_warps * warp_size;

__device__ __forceinline__ void consumers_meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(consumer_threads) : "memory");
}

/// Whether this block drew the last of `count` tickets, the same in all consumer threads. All of them have
/// stored their outputs and met before. The last one puts the tickets back.
__device__ __forceinline__ bool draw_last_ticket(uint32_t* tickets, uint32_t count) {
  __shared__ bool last;
  if (threadIdx.x == 0) {
    __threadfence();
    last = atomicAdd(tickets, 1U) + 1 == count;
    if (last) {
      *tickets = 0;
      __threadfence();
    }
  }
  consumers_meet();
  const bool drawn = last;
  consumers_meet();  // `last` may be written again
  return drawn;
}

struct no_finish {
  __device__ void after_tile(int32_t, int32_t) const {}
  __device__ void after_block(int32_t) const {}
};

/// A head is complete when all its tiles are: a warp takes each row of it.
struct rope_finish {
  text_rope_kernel_arguments<bf16> rope;
  const int32_t* live_rows;
  uint32_t* tickets;  // one word per head
  int32_t tiles_per_head;

  __device__ void after_tile(int32_t first_output, int32_t capacity) const {
    const int32_t head = first_output / (2 * rope.half_dim);
    if (!draw_last_ticket(tickets + head, static_cast<uint32_t>(tiles_per_head))) return;
    const int32_t rows = live(live_rows, capacity);
    for (int32_t row = static_cast<int32_t>(threadIdx.x / warp_size); row < rows;
         row += consumer_warps)
      place_head(rope, row, head, angles_of(rope, row));
  }
  __device__ void after_block(int32_t) const {}
};

/// Elements of a row that the consumer threads of a block take at once, eight each; a row is whole eights.
constexpr int32_t norm_row_step = consumer_threads * 8;
constexpr int32_t norm_slices_max = 4;
constexpr int32_t norm_width_max = norm_row_step * norm_slices_max;

/// Rows are complete when all blocks are: the last block adds and norms them all.
struct add_norm_finish {
  matrix<const float> partial;
  matrix<bf16> normed, residual;
  const bf16* norm_weight;
  matrix<const bf16> pool;
  const int32_t* row_map;  // null: no deepstack level
  const int32_t* live_rows;
  uint32_t* ticket;
  int32_t pool_rows, width;
  float epsilon;

  __device__ void after_tile(int32_t, int32_t) const {}
  __device__ void after_block(int32_t capacity) const {
    if (!draw_last_ticket(ticket, gridDim.x)) return;
    const int32_t rows = live(live_rows, capacity);
    for (int32_t row = 0; row < rows; ++row) finish_row(row);
  }

 private:
  __device__ const bf16* pool_row(int32_t row) const {
    const int32_t source = row_map == nullptr ? -1 : row_map[row];
    return source >= 0 && source < pool_rows ? pool.row(source) : nullptr;
  }

  /// residual += round(partial) + pool row, eight elements from `place`; returns their squares' sum.
  __device__ float add(vector16<bf16>& values, int32_t row, int32_t place,
                       const bf16* visual) const {
    const auto* sums = reinterpret_cast<const float4*>(partial.row(row) + place);
    const float4 low = __ldcg(sums), high = __ldcg(sums + 1);
    const float parts[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
    values = load16(residual.row(row) + place);
    float squares = 0;
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
      values.set(i, values.get(i) + rounded<bf16>(parts[i]));
      if (visual != nullptr) values.set(i, values.get(i) + to_f32(visual[place + i]));
      squares += values.get(i) * values.get(i);
    }
    store16(residual.row(row) + place, values);
    return squares;
  }

  __device__ void finish_row(int32_t row) const {
    __shared__ float warp_sums[consumer_warps];
    const int32_t first = static_cast<int32_t>(threadIdx.x) * 8;
    const bf16* visual = pool_row(row);
    vector16<bf16> values[norm_slices_max];
    float squares = 0;
#pragma unroll
    for (int32_t s = 0; s < norm_slices_max; ++s)
      if (first + s * norm_row_step < width)
        squares += add(values[s], row, first + s * norm_row_step, visual);
    squares = warp_sum(squares);
    if (threadIdx.x % warp_size == 0) warp_sums[threadIdx.x / warp_size] = squares;
    consumers_meet();
    float total = 0;
#pragma unroll
    for (int32_t i = 0; i < consumer_warps; ++i) total += warp_sums[i];
    const float scale = rsqrtf(total / static_cast<float>(width) + epsilon);
#pragma unroll
    for (int32_t s = 0; s < norm_slices_max; ++s) {
      const int32_t place = first + s * norm_row_step;
      if (place >= width) continue;
      const auto weights = load16(norm_weight + place);
      vector16<bf16> result;
#pragma unroll
      for (int32_t i = 0; i < 8; ++i)
        result.set(i, weights.get(i) * rounded<bf16>(values[s].get(i) * scale));
      store16(normed.row(row) + place, result);
    }
    consumers_meet();  // `warp_sums` may be written again
  }
};

}  // namespace troupe::gpu::cuda
