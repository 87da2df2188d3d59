#pragma once

#include "gpu/cuda/kernels/attention_decode_plan.cuh"
#include "gpu/cuda/kernels/launch.cuh"

#include <type_traits>

namespace troupe::gpu::cuda::decode {

/// The combining warps. They count splits and combine those of a tile of tokens when the last is
/// there, beside the consumers, which need not wait for it. A warp a row.
template <int32_t head_dim, int32_t num_stages>
struct combiner {
  static constexpr int32_t width = head_dim / warp_size;
  static constexpr int32_t splits_at_once = 16;  // loads under way
  struct alignas(width * 4) lane_sums {
    float values[width];
  };

  const parameters& p;
  shared_memory<head_dim, num_stages>& shared;
  int32_t warp;
  int32_t lane;
  ring_place<num_handovers> handover;

  __device__ void run() {
    wait_for_predecessor();
    while (true) {
      barrier_wait(&shared.handed[handover.index], handover.parity);
      const tile_note note = shared.handovers[handover.index];
      if (note.keys == 0) return;
      if (arrived_last(note))
        for (int32_t row = warp; row < note.tokens * p.call.group; row += num_combiners)
          combine(note, row);
      handover.advance();
    }
  }

  /// Whether all other splits of this tile of tokens are stored; sets their counter back if so.
  __device__ bool arrived_last(const tile_note& note) const {
    if (warp == 0 && lane == 0) {
      int32_t* counter = p.scratch.arrivals + note.arrivals;
      __threadfence();
      const bool last = atomicAdd(counter, 1) == note.splits - 1;
      if (last) *counter = 0;
      __threadfence();
      shared.complete[handover.index] = last;
    }
    named_barrier_sync(combiner_barrier, combiner_threads);
    const bool last = shared.complete[handover.index] != 0;
    if (lane == 0) barrier_arrive(&shared.taken[handover.index]);
    return last;
  }

  /// A lane holds the statistics of one split and `width` dimensions of the sum.
  __device__ void combine(const tile_note& note, int32_t row) const {
    const int64_t first = partial_row(p, note, row, 0) * head_dim + lane * width;
    const int64_t next = int64_t{p.call.num_kv_heads} * p.call.group * head_dim;
    lane_sums parts[splits_at_once];
    const auto load = [&](int32_t from) {
#pragma unroll
      for (int32_t i = 0; i < splits_at_once; ++i)
        if (from + i < note.splits)
          parts[i] = load_sums(p.scratch.sums + first + (from + i) * next);
    };
    load(0);  // on their way while the statistics come
    float2 own = make_float2(-infinity(), 0);
    if (lane < note.splits) own = __ldcg(&p.scratch.statistics[partial_row(p, note, row, lane)]);
    const float factor = rescale(p, own.x, warp_max(own.x));
    const float inverse = 1 / warp_sum(own.y * factor);

    lane_sums all{};
    for (int32_t from = 0; from < note.splits; from += splits_at_once) {
      if (from > 0) load(from);
#pragma unroll
      for (int32_t i = 0; i < splits_at_once; ++i) {
        const float split_factor = __shfl_sync(all_lanes, factor, from + i);
        if (from + i < note.splits)
#pragma unroll
          for (int32_t j = 0; j < width; ++j) all.values[j] += parts[i].values[j] * split_factor;
      }
    }
    bf16* output = p.call.output_row(note.first_token + row / p.call.group,
                                     note.kv_head * p.call.group + row % p.call.group) +
                   lane * width;
#pragma unroll
    for (int32_t j = 0; j < width; ++j) output[j] = from_f32<bf16>(all.values[j] * inverse);
  }

  __device__ static lane_sums load_sums(const float* from) {
    using vector =
        std::conditional_t<width == 4, float4, std::conditional_t<width == 2, float2, float>>;
    lane_sums sums;
    *reinterpret_cast<vector*>(&sums) = __ldcg(reinterpret_cast<const vector*>(from));
    return sums;
  }
};

}  // namespace troupe::gpu::cuda::decode
