#pragma once

#include "gpu/cuda/kernels/attention_tasks.cuh"
#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/wgmma.cuh"

#include <cstdint>

/// Attention of many query rows: compute-bound. One CTA attends with a tile of query rows to all
/// the keys they see. A warp group copies tiles of keys and values into a ring in shared memory, in
/// the order in which they are needed; the other warp groups own 64 rows each. A group issues the
/// scores of tile j together with the weighted values of tile j - 1, and the groups take turns at
/// issuing, so that one's softmax runs beside the other's products. Source: Dao 2023
/// (FlashAttention-2), Shah et al. 2024 (FlashAttention-3).
namespace troupe::gpu::cuda::tiles {

constexpr int32_t key_tile = 128;
constexpr int32_t group_rows = 64;
constexpr int32_t group_threads = 128;  // of a warp group
constexpr int32_t first_turn_barrier = 1;

constexpr int32_t block_threads(int32_t num_groups) {
  return (num_groups + 1) * group_threads;
}

/// One CTA's work: row r is query head r % group of token r / group.
struct tile_task {
  int32_t sequence;  // -1: none
  sequence_span span;
  int32_t first_token;  // in the step
  int32_t tokens;
  int32_t kv_head;
  int32_t visible_first;  // keys that the first row sees
  int32_t keys;           // keys that the last row sees
};

__device__ __forceinline__ int32_t tiles_of(const sequence_span& span, int32_t shortest,
                                            int32_t tile_tokens) {
  return span.tokens < shortest ? 0 : (span.tokens + tile_tokens - 1) / tile_tokens;
}

/// Finds task `index`; all lanes of a warp call it. A sequence's last tile comes first: it sees
/// most keys.
template <class Keys>
__device__ tile_task find_task(const attention_call<bf16, Keys>& p, int32_t index,
                               int32_t tile_tokens) {
  const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
  const int32_t sequences = p.step.live_sequences();
  const int32_t tile = index / p.num_kv_heads;
  int32_t before = 0;
  for (int32_t first = 0; first < sequences; first += warp_size) {
    const bool live = first + lane < sequences;
    const sequence_span span = live ? p.step.at(first + lane) : sequence_span{};
    const int32_t own = live ? tiles_of(span, p.shortest, tile_tokens) : 0;
    const int32_t through = before + warp_inclusive_sum(own, lane);
    const uint32_t beyond = __ballot_sync(all_lanes, through > tile);
    if (beyond != 0) {
      const int32_t owner = __ffs(static_cast<int32_t>(beyond)) - 1;
      tile_task task{};
      task.sequence = first + owner;
      task.span = {__shfl_sync(all_lanes, span.first, owner),
                   __shfl_sync(all_lanes, span.tokens, owner),
                   __shfl_sync(all_lanes, span.context, owner)};
      const int32_t token = (__shfl_sync(all_lanes, through, owner) - 1 - tile) * tile_tokens;
      task.first_token = task.span.first + token;
      task.tokens = min(tile_tokens, task.span.tokens - token);
      task.kv_head = index % p.num_kv_heads;
      task.visible_first = p.visible_keys(task.span, token);
      task.keys = p.visible_keys(task.span, token + task.tokens - 1);
      return task;
    }
    before = __shfl_sync(all_lanes, through, warp_size - 1);
  }
  return {-1};
}

/// Shared memory for heads of at most `head_dim` values; what a head lacks is zero. Where chunks reach past
/// `head_dim`, the slots' first column there holds ones: the product with values then sums the weights.
template <int32_t head_dim, int32_t num_groups, int32_t num_slots>
struct layout {
  static constexpr int32_t rows = num_groups * group_rows;
  using query = operand_tile<rows, head_dim>;
  using slot = operand_tile<key_tile, head_dim>;
  static constexpr int32_t steps = slot::chunks / 2;
  static constexpr bool has_ones = slot::chunks * chunk_values > head_dim;
  static constexpr uint32_t bytes = query::bytes + num_slots * slot::bytes + 2 * num_slots * 8;
};

/// The ring's slots hold tiles in this order: keys 0, keys 1, values 0, keys 2, values 1, .. keys n
/// - 1, values n - 2, values n - 1.
template <int32_t num_slots>
struct ring : ring_place<num_slots> {
  uint64_t* full;
  uint64_t* empty;
};

// -- the copying warp group ----------------------------------------------------------------------

template <int32_t head_dim, int32_t num_groups, int32_t num_slots, class Keys>
struct producer {
  using sizes = layout<head_dim, num_groups, num_slots>;

  const attention_call<bf16, Keys>& p;
  const tile_task& task;
  uint32_t query;
  uint32_t slots;
  ring<num_slots> place;
  typename Keys::reader reader;
  int32_t thread;

  __device__ void run() {
    copy_query();
    const int32_t tiles = (task.keys + key_tile - 1) / key_tile;
    copy_tile(0, 0);
    for (int32_t tile = 1; tile < tiles; ++tile) {
      copy_tile(tile, 0);
      copy_tile(tile - 1, reader.value_offset());
    }
    copy_tile(tiles - 1, reader.value_offset());
    commit_copies();
    wait_copies<0>();
  }

  __device__ void copy_query() const {
    const int32_t live = task.tokens * p.group;
    copy_rows<sizes::rows>(query, live, [&](int32_t row) {
      return p.query_row(task.first_token + row / p.group, task.kv_head * p.group + row % p.group);
    });
  }

  /// Keys, or with their offset values. Past the last one they are zero: a weight of zero does not
  /// silence NaN.
  __device__ void copy_tile(int32_t tile, int64_t offset) {
    const int32_t first = tile * key_tile;
    reader.begin_tile(first, task.keys - 1);
    barrier_wait(&place.empty[place.index], place.parity ^ 1);
    copy_rows<key_tile>(slots + static_cast<uint32_t>(place.index) * sizes::slot::bytes,
                        task.keys - first,
                        [&](int32_t row) { return reader.row_of_tile(first, row) + offset; });
    arrive_after_copies(&place.full[place.index]);
    place.advance();
  }

  /// Panels by eight threads a row, what is left of the width by a thread a row. Rows from `live`
  /// on become zero.
  template <int32_t rows, class Address>
  __device__ __forceinline__ void copy_rows(uint32_t to, int32_t live,
                                            const Address& address) const {
    using operand = operand_tile<rows, head_dim>;
    constexpr int32_t chunks = head_dim / chunk_values;
    const int32_t live_chunks = p.head_dim / chunk_values;
    const auto copy = [&](const bf16* from, int32_t row, int32_t chunk, uint32_t offset) {
      if (chunk < live_chunks) copy16_async(to + offset, from + chunk * chunk_values, row < live);
    };
#pragma unroll 2
    for (int32_t first = 0; first < rows; first += group_threads / 8) {
      const int32_t row = first + thread / 8;
      const bf16* from = address(min(row, live - 1));
#pragma unroll
      for (int32_t panel = 0; panel < operand::panels; ++panel) {
        const int32_t chunk = 8 * panel + thread % 8;
        copy(from, row, chunk, operand::panel_offset(row, chunk));
      }
    }
    if constexpr (chunks > operand::panel_chunks) {
      for (int32_t row = thread; row < rows; row += group_threads) {
        const bf16* from = address(min(row, live - 1));
#pragma unroll
        for (int32_t chunk = operand::panel_chunks; chunk < chunks; ++chunk)
          copy(from, row, chunk, operand::rest_offset(row, chunk));
      }
    }
  }
};

// -- the attending warp groups --------------------------------------------------------------------

/// One thread's part of the rows lane / 4 and lane / 4 + 8 of its warp's 16.
template <int32_t head_dim, int32_t num_groups, int32_t num_slots, class Keys>
struct consumer {
  using sizes = layout<head_dim, num_groups, num_slots>;
  static constexpr int32_t turn_threads = 2 * group_threads;
  static constexpr int32_t panels_width = head_dim / 64 * 64;
  static constexpr int32_t rest_width = sizes::slot::chunks * chunk_values - panels_width;

  const attention_call<bf16, Keys>& p;
  const tile_task& task;
  uint32_t query;
  uint32_t slots;
  ring<num_slots> place;
  int32_t group;
  int32_t row[2];
  int32_t visible[2];
  float scores[key_tile / 2];
  uint32_t weights[key_tile / 4];
  float sums[panels_width / 2];
  float rest_sums[rest_width > 0 ? rest_width / 2 : 1];
  float peak[2];
  float total[2];

  __device__ void run() {
    begin();
    const int32_t tiles = (task.keys + key_tile - 1) / key_tile;
    // Tiles before this one are seen by every row.
    const int32_t masked = min(task.visible_first, task.keys) / key_tile;

    wait_slot();
    issue_scores();
    warpgroup_wait<0>();
    release_slot();
    if (masked == 0) mask(0);
    float shrink[2];
    weigh(shrink);
    take_weights();

    if (group == num_groups - 1) named_barrier_arrive(first_turn_barrier, turn_threads);
    int32_t tile = 1;
    for (; tile < masked; ++tile) step<false>(tile, tile == tiles - 1);
    for (; tile < tiles; ++tile) step<true>(tile, tile == tiles - 1);

    wait_slot();
    issue_values();
    warpgroup_wait<0>();
    store();
  }

  __device__ void begin() {
    const auto thread = static_cast<int32_t>(threadIdx.x) % group_threads;
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      row[half] = group * group_rows + thread / warp_size * 16 + thread % warp_size / 4 + 8 * half;
      visible[half] = task.visible_first + (p.causal ? row[half] / p.group : 0);
      peak[half] = -infinity();
      total[half] = 0;
    }
#pragma unroll
    for (float& sum : sums) sum = 0;
#pragma unroll
    for (float& sum : rest_sums) sum = 0;
  }

  /// Scores of `tile`, values of the tile before it. Holds two slots: keys, then values.
  template <bool masked>
  __device__ __forceinline__ void step(int32_t tile, bool last) {
    wait_slot();
    named_barrier_sync(first_turn_barrier + group, turn_threads);
    issue_scores();
    ring<num_slots> keys = place;
    place.advance();
    wait_slot();
    issue_values();
    // The last group's last turn has no successor.
    if (!(last && group == num_groups - 1))
      named_barrier_arrive(first_turn_barrier + (group + 1) % num_groups, turn_threads);
    warpgroup_wait<1>();
    release(keys);
    if constexpr (masked) mask(tile);
    float shrink[2];
    weigh(shrink);
    warpgroup_wait<0>();
    release_slot();
#pragma unroll
    for (int32_t i = 0; i < panels_width / 2; ++i) sums[i] *= shrink[i / 2 % 2];
#pragma unroll
    for (int32_t i = 0; i < rest_width / 2; ++i) rest_sums[i] *= shrink[i / 2 % 2];
    take_weights();
  }

  __device__ __forceinline__ uint32_t slot_address() const {
    return slots + static_cast<uint32_t>(place.index) * sizes::slot::bytes;
  }

  __device__ __forceinline__ void issue_scores() {
    const uint32_t keys = slot_address();
    warpgroup_begin();
#pragma unroll
    for (int32_t step = 0; step < sizes::steps; ++step)
      wgmma_rows(scores, sizes::query::along_rows(query, group * group_rows, step),
                 sizes::slot::along_rows(keys, 0, step), step > 0);
    warpgroup_commit();
  }

  __device__ __forceinline__ void issue_values() {
    const uint32_t values = slot_address();
    warpgroup_begin();
#pragma unroll
    for (int32_t step = 0; step < key_tile / 16; ++step) {
      wgmma_columns(sums, weights + 4 * step, sizes::slot::down_panels(values, step));
      if constexpr (rest_width > 0)
        wgmma_columns(rest_sums, weights + 4 * step, sizes::slot::down_rest(values, step));
    }
    warpgroup_commit();
  }

  __device__ __forceinline__ void wait_slot() const {
    barrier_wait(&place.full[place.index], place.parity);
    fence_shared_for_async();
  }
  __device__ __forceinline__ void release(const ring<num_slots>& slot) const {
    if (threadIdx.x % warp_size == 0) barrier_arrive(&slot.empty[slot.index]);
  }
  __device__ __forceinline__ void release_slot() {
    release(place);
    place.advance();
  }

  __device__ __forceinline__ void mask(int32_t tile) {
    const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
    const int32_t column = tile * key_tile + 2 * (lane % 4);
#pragma unroll
    for (int32_t i = 0; i < key_tile / 2; ++i)
      if (column + i / 4 * 8 + i % 2 >= visible[i / 2 % 2]) scores[i] = -infinity();
  }

  /// Scores to weights under the largest score so far; `shrink` is for what was summed under an
  /// older one.
  __device__ __forceinline__ void weigh(float (&shrink)[2]) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      float largest = peak[half];
#pragma unroll
      for (int32_t i = 0; i < key_tile / 2; i += 4)
        largest = fmaxf(largest, fmaxf(scores[i + 2 * half], scores[i + 2 * half + 1]));
      largest = quad_max(largest);
      const float offset = largest == -infinity() ? 0 : largest * p.scale_log2;
      shrink[half] = exp2_approximate(fmaf(peak[half], p.scale_log2, -offset));
      peak[half] = largest;
      float sum = 0;
#pragma unroll
      for (int32_t i = 0; i < key_tile / 2; i += 4) {
        float& a = scores[i + 2 * half];
        float& b = scores[i + 2 * half + 1];
        a = exp2_approximate(fmaf(a, p.scale_log2, -offset));
        b = exp2_approximate(fmaf(b, p.scale_log2, -offset));
        if constexpr (sizes::has_ones) continue;
        // Rounded before they are summed: the product takes them so, and what all values have in common
        // must come out with a weight of exactly one. Both by one conversion, which are dear.
        const uint32_t pair = pack_bf16(a, b);
        a = __uint_as_float(pair << 16);
        b = __uint_as_float(pair & 0xffff0000U);
        sum += a + b;
      }
      total[half] = total[half] * shrink[half] + sum;
    }
  }

  /// Rounds the weights, once no product reads those of the tile before.
  __device__ __forceinline__ void take_weights() {
    constexpr uint32_t upper_halves = 0x7632;  // of two floats, which hold rounded values already
#pragma unroll
    for (int32_t i = 0; i < key_tile / 4; ++i)
      weights[i] = sizes::has_ones
                       ? pack_bf16(scores[2 * i], scores[2 * i + 1])
                       : __byte_perm(__float_as_uint(scores[2 * i]),
                                     __float_as_uint(scores[2 * i + 1]), upper_halves);
  }

  /// The sum of a row's weights, in all four lanes that share the row.
  __device__ __forceinline__ float total_of(int32_t half) const {
    if constexpr (sizes::has_ones) {
      const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
      // A copy that the compiler cannot see through: else it keeps the sum in an integer register, for the
      // shuffle, and the products wait for each other.
      float sum;
      asm("mov.f32 %0, %1;" : "=f"(sum) : "f"(rest_sums[(head_dim - panels_width) / 2 + 2 * half]));
      return __shfl_sync(all_lanes, sum, lane / 4 * 4);
    } else {
      return quad_sum(total[half]);
    }
  }

  __device__ void store() const {
    const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const float inverse = 1 / total_of(half);
      if (row[half] >= task.tokens * p.group) continue;
      bf16* to = p.output_row(task.first_token + row[half] / p.group,
                              task.kv_head * p.group + row[half] % p.group) +
                 2 * (lane % 4);
#pragma unroll
      for (int32_t i = 0; i < head_dim / 8; ++i) {
        const float* sum =
            8 * i < panels_width ? sums + 4 * i : rest_sums + 4 * i - panels_width / 2;
        if (8 * i < p.head_dim)
          *reinterpret_cast<uint32_t*>(to + 8 * i) =
              pack_bf16(sum[2 * half] * inverse, sum[2 * half + 1] * inverse);
      }
    }
  }
};

/// The queries are zero where the slots have ones, so that scores stay what they are.
template <class Sizes, int32_t num_slots>
__device__ void write_ones(std::byte* memory, int32_t thread) {
  constexpr uint32_t one_and_zero = 0x3f80;  // two values of bf16
  for (int32_t i = thread; i < num_slots * key_tile; i += static_cast<int32_t>(blockDim.x)) {
    std::byte* slot = memory + Sizes::query::bytes + i / key_tile * Sizes::slot::bytes;
    *reinterpret_cast<uint32_t*>(
        slot + Sizes::slot::rest_offset(i % key_tile, Sizes::slot::chunks - 1)) = one_and_zero;
  }
}

/// Registers of a thread: 64 Ki of them per SM, one CTA.
template <int32_t num_groups>
constexpr int32_t producer_registers = num_groups == 2 ? 40 : 32;
template <int32_t num_groups>
constexpr int32_t consumer_registers = num_groups == 2 ? 232 : 160;

template <int32_t head_dim, int32_t num_groups, int32_t num_slots, class Keys>
__global__ void __launch_bounds__(block_threads(num_groups), 1)
    tile_attention_kernel(const __grid_constant__ attention_call<bf16, Keys> p) {
  using sizes = layout<head_dim, num_groups, num_slots>;
  extern __shared__ __align__(1024) std::byte memory[];
  auto* barriers =
      reinterpret_cast<uint64_t*>(memory + sizes::query::bytes + num_slots * sizes::slot::bytes);
  release_successor();
  const auto thread = static_cast<int32_t>(threadIdx.x);
  const tile_task task = find_task(p, static_cast<int32_t>(blockIdx.x), sizes::rows / p.group);
  if (task.sequence < 0) return wait_for_predecessor();

  if (thread == 0) {
    for (int32_t i = 0; i < num_slots; ++i) {
      barrier_init(barriers + i, group_threads);
      barrier_init(barriers + num_slots + i, num_groups * (group_threads / warp_size));
    }
    fence_barrier_init();
  }
  if (sizes::slot::chunks * chunk_values > p.head_dim) {  // the padding, which no copy touches
    const auto end = static_cast<int32_t>(sizes::query::bytes + num_slots * sizes::slot::bytes);
    for (int32_t i = thread * 16; i < end; i += block_threads(num_groups) * 16)
      *reinterpret_cast<uint4*>(memory + i) = uint4{};
    if constexpr (sizes::has_ones) {
      __syncthreads();
      write_ones<sizes, num_slots>(memory, thread);
    }
    fence_shared_for_async();
  }
  __syncthreads();
  wait_for_predecessor();

  const uint32_t query = shared_address(memory);
  const uint32_t slots = query + sizes::query::bytes;
  const ring<num_slots> place{{}, barriers, barriers + num_slots};
  const int32_t group = thread / group_threads;
  if (group == num_groups) {
    give_up_registers<producer_registers<num_groups>>();
    producer<head_dim, num_groups, num_slots, Keys>{
        p,
        task,
        query,
        slots,
        place,
        p.keys.of(task.sequence, task.span, task.kv_head),
        thread % group_threads}
        .run();
  } else {
    take_registers<consumer_registers<num_groups>>();
    consumer<head_dim, num_groups, num_slots, Keys>{p, task, query, slots, place, group}.run();
  }
}

}  // namespace troupe::gpu::cuda::tiles
