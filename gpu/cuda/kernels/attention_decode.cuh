#pragma once

#include "gpu/cuda/kernels/attention_paged.hpp"
#include "gpu/cuda/kernels/attention_tasks.cuh"
#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/mma.cuh"

#include <cstddef>
#include <cstdint>
#include <type_traits>

/// Attention of sequences with few new tokens: memory-bound, so that every key and value is read
/// once and the reading never pauses. The keys of a sequence are split by its own length; CTAs take
/// splits from a counter; one warp of a CTA copies tiles of keys and values into a ring in shared
/// memory, across task borders, and four warps each attend to a quarter of every tile. The query
/// heads that share the keys are the rows of one product. The CTA that ends a sequence's last split
/// combines the splits, in order. Source: Dao et al. 2023 (Flash-Decoding).
namespace troupe::gpu::cuda::decode {

constexpr int32_t row_count = 16;  // of a product: tokens * query heads that share a key-value head
constexpr int32_t tile_keys = 64;
constexpr int32_t num_consumers = 4;
constexpr int32_t consumer_threads = num_consumers * warp_size;
constexpr int32_t num_combiners = 4;
constexpr int32_t combiner_threads = num_combiners * warp_size;
constexpr int32_t block_threads = consumer_threads + combiner_threads + warp_size;
constexpr int32_t num_handovers = 2;
constexpr int32_t warp_keys = tile_keys / num_consumers;
constexpr int32_t combine_rows = 8;  // rows whose sums meet in shared memory at once
static_assert(warp_keys == 16, "one product's depth");
constexpr int32_t consumer_barrier = 1, combiner_barrier = 2;

/// Splits that the tokens of one sequence have at most, together: few heads need more of them to
/// occupy the device. A lane of a warp each when they are combined.
constexpr int32_t max_splits(int32_t num_kv_heads) {
  return num_kv_heads > 4 ? 16 : 32;
}
static_assert(max_splits(1) <= warp_size);
constexpr int32_t split_tiles_min = 2;  // less is not worth the combining

/// Tiles of tokens of one sequence at most.
__host__ __device__ constexpr int32_t token_tiles_max(int32_t tokens_per_tile) {
  return (decode_tokens_max + tokens_per_tile - 1) / tokens_per_tile;
}

/// Where CTAs meet. Counters are zero between launches. They lie in a part of fixed size, so that
/// calls of any shapes can follow each other in one memory.
struct scratch {
  int32_t* next_task;
  int32_t* arrivals;   // [max_sequences][token tiles][kv_heads] splits done of a tile of tokens
  float2* statistics;  // [max_sequences][max_splits][q_heads] largest score, sum of weights
  float* sums;         // [max_sequences][max_splits][q_heads][head_dim] weighted values
};
constexpr int64_t counters_bytes = int64_t{1} << 20;
constexpr int64_t arrivals_start = 256;
constexpr int64_t arrivals_max = (counters_bytes - arrivals_start) / 4;

inline scratch cut_scratch(void* memory, int32_t num_q_heads, int32_t num_kv_heads,
                           int32_t max_sequences) {
  auto* bytes = static_cast<std::byte*>(memory);
  auto* statistics = reinterpret_cast<float2*>(bytes + counters_bytes);
  const int64_t rows = int64_t{max_sequences} * max_splits(num_kv_heads) * num_q_heads;
  return {reinterpret_cast<int32_t*>(bytes), reinterpret_cast<int32_t*>(bytes + arrivals_start),
          statistics, reinterpret_cast<float*>(statistics + rows)};
}

struct parameters {
  attention_call<bf16, paged_keys<bf16>> call;
  int32_t tokens_per_tile;  // row_count / group
  int32_t max_splits;
  decode::scratch scratch;
};

/// How the keys of one sequence are split.
struct split_plan {
  int32_t tiles;       // of tokens
  int32_t splits;      // of keys, for each
  int32_t split_keys;  // a multiple of tile_keys

  __device__ int32_t tasks() const { return tiles * splits; }
};

__device__ __forceinline__ split_plan plan_of(const parameters& p, const sequence_span& sequence) {
  if (sequence.tokens <= 0 || sequence.tokens > decode_tokens_max) return {0, 0, tile_keys};
  // More than 16 pay for long contexts only.
  const int32_t most = max(min(p.max_splits, 16 + sequence.context / 1024) / sequence.tokens, 1);
  const int32_t key_tiles = (sequence.context + tile_keys - 1) / tile_keys;
  const int32_t split_tiles = max((key_tiles + most - 1) / most, split_tiles_min);
  return {(sequence.tokens + p.tokens_per_tile - 1) / p.tokens_per_tile,
          max((key_tiles + split_tiles - 1) / split_tiles, 1), split_tiles * tile_keys};
}

/// What the consumers must know of a tile of keys.
struct tile_note {
  int32_t keys;           // in this tile; 0: there is nothing more to do
  int32_t first_key;      // in the context
  int32_t visible_first;  // keys that the first token sees
  int32_t first_token;    // in the step
  int32_t tokens;
  int32_t kv_head;
  int32_t split;
  int32_t splits;          // of this tile of tokens
  int32_t first_partial;   // row of scratch of (first token, split 0), in units of query heads
  int32_t partial_tokens;  // distance of two tokens there
  int32_t arrivals;        // index of the counter
  uint32_t flags;
};
constexpr uint32_t first_tile = 1, last_tile = 2;

template <int32_t head_dim>
struct __align__(128) stage {
  bf16 keys[tile_keys][head_dim];
  bf16 values[tile_keys][head_dim];
  bf16 query[row_count][head_dim];  // with a task's first tile
};

template <int32_t head_dim, int32_t num_stages>
struct __align__(128) shared_memory {
  stage<head_dim> stages[num_stages];
  float sums[num_consumers][combine_rows][head_dim + 4];
  float2 statistics[num_consumers][row_count];
  tile_note notes[num_stages];
  uint64_t full[num_stages];
  uint64_t empty[num_stages];
  tile_note handovers[num_handovers];  // tasks from consumers to combiners
  uint64_t handed[num_handovers];
  uint64_t taken[num_handovers];
  int32_t complete[num_handovers];
  int32_t task_start[1];  // [sequences + 1] follow
};

/// Position in the ring.
template <int32_t length>
struct ring_place {
  int32_t index = 0;
  uint32_t parity = 0;

  __device__ __forceinline__ void advance() {
    if (++index == length) {
      index = 0;
      parity ^= 1;
    }
  }
};

/// Row of scratch where a split's sums for one row of its product lie.
__device__ __forceinline__ int64_t partial_row(const parameters& p, const tile_note& note,
                                               int32_t row, int32_t split) {
  const int64_t token = note.first_partial + row / p.call.group * note.partial_tokens + split;
  return (token * p.call.num_kv_heads + note.kv_head) * p.call.group + row % p.call.group;
}

/// What sums under the largest score `from` count where the largest is `all`.
__device__ __forceinline__ float rescale(const parameters& p, float from, float all) {
  return from == -infinity() ? 0 : exp2_approximate((from - all) * p.call.scale_log2);
}

// -- the copying warp ----------------------------------------------------------------------------

template <int32_t head_dim, int32_t num_stages>
struct producer {
  static constexpr uint32_t row_bytes = head_dim * sizeof(bf16);

  const parameters& p;
  shared_memory<head_dim, num_stages>& shared;
  int32_t lane;
  ring_place<num_stages> place;

  /// Number of tasks before each sequence, and in all.
  __device__ int32_t count_tasks(int32_t sequences) {
    int32_t before = 0;
    for (int32_t first = 0; first < sequences; first += warp_size) {
      const int32_t i = first + lane;
      const int32_t own = i < sequences ? plan_of(p, p.call.step.at(i)).tasks() : 0;
      const int32_t through = before + warp_inclusive_sum(own, lane);
      if (i < sequences) shared.task_start[i + 1] = through;
      before = __shfl_sync(all_lanes, through, warp_size - 1);
    }
    if (lane == 0) shared.task_start[0] = 0;
    __syncwarp();
    return before;
  }

  /// Keys that one task reads, and what all its tiles have in common.
  struct task_keys {
    tile_note note;
    const int32_t* table;
    int32_t begin;
    int32_t end;
  };

  /// Tasks of a sequence are ordered by tile of tokens, then split; the heads of one follow each
  /// other.
  __device__ task_keys keys_of(int32_t task, int32_t sequences) const {
    const int32_t kv_head = task % p.call.num_kv_heads;
    const int32_t rest = task / p.call.num_kv_heads;
    const int32_t sequence = last_at_most(shared.task_start, sequences, rest);
    const sequence_span span = p.call.step.at(sequence);
    const split_plan plan = plan_of(p, span);
    const int32_t local = rest - shared.task_start[sequence];
    const int32_t token = local / plan.splits * p.tokens_per_tile;

    tile_note note{};
    note.tokens = min(p.tokens_per_tile, span.tokens - token);
    note.visible_first = p.call.visible_keys(span, token);
    note.first_token = span.first + token;
    note.kv_head = kv_head;
    note.split = local % plan.splits;
    const int32_t visible = note.visible_first + note.tokens - 1;
    note.splits = (visible + plan.split_keys - 1) / plan.split_keys;
    note.first_partial = sequence * p.max_splits + token * plan.splits;
    note.partial_tokens = plan.splits;
    note.arrivals = (sequence * token_tiles_max(p.tokens_per_tile) + token / p.tokens_per_tile) *
                        p.call.num_kv_heads +
                    kv_head;
    const int32_t begin = note.split * plan.split_keys;  // past the end where only later tokens see
    return {note, p.call.keys.table(sequence), begin, min(begin + plan.split_keys, visible)};
  }

  /// Keys that lie together, as far as one tile may want them.
  __device__ int32_t piece_keys() const { return min(p.call.keys.block_size(), tile_keys); }

  /// Brings to L2 what the ring can take of a task, while the predecessor still runs. It may be
  /// writing the newest of these keys, which is why they are not yet copied.
  __device__ void prefetch(const task_keys& task) const {
    const int32_t end = min(task.end, task.begin + num_stages * tile_keys);
    for (int32_t key = task.begin + lane * piece_keys(); key < end;
         key += warp_size * piece_keys()) {
      const bf16* row = p.call.keys.row(task.table, key, task.note.kv_head);
      const uint32_t bytes = static_cast<uint32_t>(min(piece_keys(), end - key)) * row_bytes;
      prefetch_l2(row, bytes);
      prefetch_l2(row + p.call.keys.value_offset(), bytes);
    }
  }

  __device__ void copy(task_keys& task) {
    tile_note& note = task.note;
    for (int32_t key = task.begin; key < task.end; key += tile_keys) {
      note.first_key = key;
      note.keys = min(tile_keys, task.end - key);
      note.flags =
          (key == task.begin ? first_tile : 0) | (key + tile_keys >= task.end ? last_tile : 0);
      copy_tile(note, task.table);
    }
  }

  __device__ void copy_tile(const tile_note& note, const int32_t* table) {
    auto& stage = shared.stages[place.index];
    uint64_t* full = &shared.full[place.index];
    // Lanes 0 to 15 copy keys, lanes 16 to 31 values.
    const int32_t first = lane % (warp_size / 2) * piece_keys();
    const int32_t rows = min(piece_keys(), note.keys - first);
    const bf16* source = nullptr;
    if (rows > 0) source = p.call.keys.row(table, note.first_key + first, note.kv_head);

    barrier_wait(&shared.empty[place.index], place.parity ^ 1);
    if (lane == 0) {
      const bool with_query = (note.flags & first_tile) != 0;
      const uint32_t query_bytes = static_cast<uint32_t>(p.call.group) * row_bytes;
      const uint32_t tokens = with_query ? static_cast<uint32_t>(note.tokens) : 0;
      shared.notes[place.index] = note;
      barrier_arrive_expecting(
          full, 2 * row_bytes * static_cast<uint32_t>(note.keys) + tokens * query_bytes);
      for (uint32_t i = 0; i < tokens; ++i)
        copy_bulk(stage.query[i * static_cast<uint32_t>(p.call.group)],
                  p.call.query_row(note.first_token + static_cast<int32_t>(i),
                                   note.kv_head * p.call.group),
                  query_bytes, full);
    }
    __syncwarp();
    if (rows > 0) {
      const bool keys = lane < warp_size / 2;
      copy_bulk(keys ? stage.keys[first] : stage.values[first],
                keys ? source : source + p.call.keys.value_offset(),
                static_cast<uint32_t>(rows) * row_bytes, full);
    }
    place.advance();
  }

  __device__ void finish() {
    barrier_wait(&shared.empty[place.index], place.parity ^ 1);
    if (lane == 0) {
      shared.notes[place.index].keys = 0;
      barrier_arrive(&shared.full[place.index]);
    }
  }

  /// CTA i begins with task i and goes on with tasks that no other CTA has taken. The last fetch of
  /// all, one that finds nothing, sets the counter back.
  __device__ void run() {
    const int32_t sequences = p.call.step.live_sequences();
    const int32_t tasks = count_tasks(sequences) * p.call.num_kv_heads;
    const auto grid = static_cast<int32_t>(gridDim.x);
    const int32_t fetches = max(tasks - grid, 0) + min(grid, tasks);
    auto index = static_cast<int32_t>(blockIdx.x);
    task_keys task{};
    if (index < tasks) {
      task = keys_of(index, sequences);
      prefetch(task);
    }
    wait_for_predecessor();
    while (index < tasks) {
      const int32_t fetched = lane == 0 ? atomicAdd(p.scratch.next_task, 1) : 0;
      copy(task);
      if (lane == 0 && fetched == fetches - 1) *p.scratch.next_task = 0;
      index = grid + __shfl_sync(all_lanes, fetched, 0);
      if (index < tasks) task = keys_of(index, sequences);
    }
    finish();
  }
};

// -- the attending warps --------------------------------------------------------------------------

/// One thread's part of the rows lane / 4 and lane / 4 + 8 of its warp's keys.
template <int32_t head_dim, int32_t num_stages>
struct consumer {
  // A thread reads `width` neighbouring dimensions of a value at once, `parts` times.
  static constexpr int32_t width = head_dim >= 64 ? 8 : head_dim / 8;
  static constexpr int32_t parts = head_dim / (8 * width);
  static constexpr int32_t key_parts =
      head_dim / 32;  // chunks of a key or query that a thread reads

  const parameters& p;
  shared_memory<head_dim, num_stages>& shared;
  int32_t warp;
  int32_t g;  // lane / 4: row, or key of a product's eight
  int32_t t;  // lane % 4
  ring_place<num_stages> place;
  ring_place<num_handovers> handover;
  uint4 query[2][key_parts];
  float sums[parts][width]
            [4];  // [.][j]: dimensions part * 64 + width * (2t) + j, and width further
  float peak[2];
  float total[2];

  __device__ void run() {
    wait_for_predecessor();
    while (true) {
      barrier_wait(&shared.full[place.index], place.parity);
      const tile_note note = shared.notes[place.index];
      if (note.keys == 0) return hand_over(note);
      const auto& stage = shared.stages[place.index];
      if (note.flags & first_tile) begin_task(stage);
      if (warp * warp_keys < note.keys) attend(stage, note);
      __syncwarp();
      if (g == 0 && t == 0) barrier_arrive(&shared.empty[place.index]);
      place.advance();
      if (note.flags & last_tile) end_task(note);
    }
  }

  /// Dimension i of a product's depth may be any, if it is the same for query and key: a thread
  /// takes 16 bytes, and those are the depths that it holds in two products.
  __device__ void begin_task(const stage<head_dim>& stage) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half)
#pragma unroll
      for (int32_t i = 0; i < key_parts; ++i)
        query[half][i] = *reinterpret_cast<const uint4*>(
            &stage.query[g + 8 * half][(4 * i + t) * chunk_elements]);
#pragma unroll
    for (auto& part : sums)
      for (auto& column : part)
        for (float& sum : column) sum = 0;
    peak[0] = peak[1] = -infinity();
    total[0] = total[1] = 0;
  }

  __device__ void attend(const stage<head_dim>& stage, const tile_note& note) {
    float scores[2][4];
    score(scores, stage);
    if (note.first_key + tile_keys > note.visible_first || note.keys < tile_keys)
      mask(scores, note);
    uint32_t weights[4];
    weigh(weights, scores);
    add_values(stage, weights, note.keys);
  }

  __device__ void score(float (&scores)[2][4], const stage<head_dim>& stage) const {
#pragma unroll
    for (int32_t n = 0; n < 2; ++n) {
      for (float& value : scores[n]) value = 0;
      const bf16* key = stage.keys[warp * warp_keys + 8 * n + g];
#pragma unroll
      for (int32_t i = 0; i < key_parts; ++i) {
        const uint4 b = *reinterpret_cast<const uint4*>(key + (4 * i + t) * chunk_elements);
        const uint4& low = query[0][i];
        const uint4& high = query[1][i];
        mma_16x8x16(scores[n], {low.x, high.x, low.y, high.y}, b.x, b.y);
        mma_16x8x16(scores[n], {low.z, high.z, low.w, high.w}, b.z, b.w);
      }
    }
  }

  __device__ void mask(float (&scores)[2][4], const tile_note& note) const {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      const int32_t token = (g + 8 * half) / p.call.group;
      const int32_t visible = min(note.visible_first + token - note.first_key, note.keys);
#pragma unroll
      for (int32_t n = 0; n < 2; ++n)
#pragma unroll
        for (int32_t i = 0; i < 2; ++i)
          if (warp * warp_keys + 8 * n + 2 * t + i >= visible)
            scores[n][2 * half + i] = -infinity();
    }
  }

  /// Scores to weights, rounded for the product; what was summed under an older peak is rescaled.
  __device__ void weigh(uint32_t (&weights)[4], float (&scores)[2][4]) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      float largest = fmaxf(fmaxf(scores[0][2 * half], scores[0][2 * half + 1]),
                            fmaxf(scores[1][2 * half], scores[1][2 * half + 1]));
      largest = fmaxf(peak[half], quad_max(largest));
      const float offset = largest == -infinity() ? 0 : largest * p.call.scale_log2;
      const float shrink = exp2_approximate(peak[half] * p.call.scale_log2 - offset);
      peak[half] = largest;
      total[half] *= shrink;
#pragma unroll
      for (int32_t n = 0; n < 2; ++n) {
        float& a = scores[n][2 * half];
        float& b = scores[n][2 * half + 1];
        a = rounded<bf16>(exp2_approximate(fmaf(a, p.call.scale_log2, -offset)));
        b = rounded<bf16>(exp2_approximate(fmaf(b, p.call.scale_log2, -offset)));
        total[half] += a + b;
        weights[2 * n + half] = pack_bf16(a, b);
      }
#pragma unroll
      for (auto& part : sums)
#pragma unroll
        for (auto& column : part) {
          column[2 * half] *= shrink;
          column[2 * half + 1] *= shrink;
        }
    }
  }

  /// A thread's four keys are the depths it holds; the dimensions it reads are columns of as many
  /// products. Rows past the tile's keys hold anything, also NaN.
  __device__ void add_values(const stage<head_dim>& stage, const uint32_t (&weights)[4],
                             int32_t keys) {
    using vector = std::conditional_t<width == 8, uint4, uint2>;
    constexpr int32_t words = width / 2;
#pragma unroll
    for (int32_t part = 0; part < parts; ++part) {
      uint32_t rows[4][words];
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t key = warp * warp_keys + 2 * t + (i & 1) + (i & 2) * 4;
        const auto value =
            *reinterpret_cast<const vector*>(&stage.values[key][(part * 8 + g) * width]);
#pragma unroll
        for (int32_t word = 0; word < words; ++word)
          rows[i][word] = key < keys ? reinterpret_cast<const uint32_t*>(&value)[word] : 0;
      }
#pragma unroll
      for (int32_t word = 0; word < words; ++word) {
        constexpr uint32_t lower = 0x5410, upper = 0x7632;
        mma_16x8x16(sums[part][2 * word], weights, __byte_perm(rows[0][word], rows[1][word], lower),
                    __byte_perm(rows[2][word], rows[3][word], lower));
        mma_16x8x16(sums[part][2 * word + 1], weights,
                    __byte_perm(rows[0][word], rows[1][word], upper),
                    __byte_perm(rows[2][word], rows[3][word], upper));
      }
    }
  }

  // What a thread does with rows of results: one row, `head_dim / 16` neighbouring dimensions.
  static constexpr int32_t result_values = head_dim * combine_rows / consumer_threads;
  __device__ int32_t result_row() const {
    return thread() * result_values / head_dim;
  }
  __device__ int32_t result_column() const {
    return thread() * result_values % head_dim;
  }
  __device__ int32_t thread() const {
    return warp * warp_size + g * 4 + t;
  }
  __device__ void meet() const {
    named_barrier_sync(consumer_barrier, consumer_threads);
  }

  /// Adds up the warps' sums and stores the task's result, or its part of one.
  __device__ void end_task(const tile_note& note) {
#pragma unroll
    for (int32_t half = 0; half < 2; ++half) {
      total[half] = quad_sum(total[half]);
      if (t == 0) shared.statistics[warp][g + 8 * half] = make_float2(peak[half], total[half]);
    }
    const int32_t rows = note.tokens * p.call.group;
    for (int32_t half = 0; half * combine_rows < rows; ++half) {
      meet();
      share_sums(half);
      meet();
      const int32_t row = half * combine_rows + result_row();
      if (row < rows) store_row(note, row);
    }
    meet();
    if (note.splits > 1) hand_over(note);
  }

  __device__ float2 warps_statistics(int32_t row) const {
    float2 all = shared.statistics[0][row];
#pragma unroll
    for (int32_t i = 1; i < num_consumers; ++i) all.x = fmaxf(all.x, shared.statistics[i][row].x);
    all.y = 0;
#pragma unroll
    for (int32_t i = 0; i < num_consumers; ++i) {
      const float2 part = shared.statistics[i][row];
      all.y += part.y * rescale(p, part.x, all.x);
    }
    return all;
  }

  __device__ void share_sums(int32_t half) {
    const float factor =
        rescale(p, half == 0 ? peak[0] : peak[1], warps_statistics(g + 8 * half).x);
    float* row = shared.sums[warp][g];
#pragma unroll
    for (int32_t part = 0; part < parts; ++part)
#pragma unroll
      for (int32_t i = 0; i < 2; ++i)
#pragma unroll
        for (int32_t j = 0; j < width; ++j) {
          const float value = half == 0 ? sums[part][j][i] : sums[part][j][2 + i];
          row[part * 8 * width + (2 * t + i) * width + j] = value * factor;
        }
  }

  __device__ void store_row(const tile_note& note, int32_t row) const {
    float values[result_values];
    const float2 all = warps_statistics(row);
#pragma unroll
    for (int32_t j = 0; j < result_values; ++j) {
      values[j] = 0;
#pragma unroll
      for (int32_t i = 0; i < num_consumers; ++i)
        values[j] += shared.sums[i][row % combine_rows][result_column() + j];
    }
    if (note.splits == 1) return store_output(note, row, values, all.y);
    const int64_t partial = partial_row(p, note, row, note.split);
    if (result_column() == 0) __stcg(&p.scratch.statistics[partial], all);
#pragma unroll
    for (int32_t j = 0; j < result_values; j += 2)
      __stcg(reinterpret_cast<float2*>(p.scratch.sums + partial * head_dim + result_column() + j),
             make_float2(values[j], values[j + 1]));
  }

  __device__ void store_output(const tile_note& note, int32_t row,
                               const float (&values)[result_values], float sum) const {
    const float inverse = 1 / sum;
    bf16* output = p.call.output_row(note.first_token + row / p.call.group,
                                     note.kv_head * p.call.group + row % p.call.group) +
                   result_column();
#pragma unroll
    for (int32_t j = 0; j < result_values; j += 2)
      *reinterpret_cast<uint32_t*>(output + j) =
          pack_bf16(values[j] * inverse, values[j + 1] * inverse);
  }

  /// Tells the combiners that a split is stored, or that there are no more.
  __device__ void hand_over(const tile_note& note) {
    barrier_wait(&shared.taken[handover.index], handover.parity ^ 1);
    if (thread() == 0) shared.handovers[handover.index] = note;
    barrier_arrive(&shared.handed[handover.index]);
    handover.advance();
  }
};

// -- the combining warps --------------------------------------------------------------------------

/// Count splits and combine those of a tile of tokens when the last is there, beside the consumers,
/// which need not wait for it. A warp a row.
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

template <int32_t head_dim, int32_t num_stages>
__global__ void __launch_bounds__(block_threads, 1)
    decode_attention_kernel(const __grid_constant__ parameters p) {
  extern __shared__ __align__(128) std::byte memory[];
  auto& shared = *reinterpret_cast<shared_memory<head_dim, num_stages>*>(memory);
  release_successor();
  if (threadIdx.x == 0) {
    for (int32_t i = 0; i < num_stages; ++i) {
      barrier_init(&shared.full[i], 1);
      barrier_init(&shared.empty[i], num_consumers);
    }
    for (int32_t i = 0; i < num_handovers; ++i) {
      barrier_init(&shared.handed[i], consumer_threads);
      barrier_init(&shared.taken[i], num_combiners);
    }
    fence_barrier_init();
  }
  __syncthreads();
  const auto warp = static_cast<int32_t>(threadIdx.x) / warp_size;
  const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
  if (warp < num_consumers) {
    consumer<head_dim, num_stages>{p, shared, warp, lane / 4, lane % 4}.run();
  } else if (warp < num_consumers + num_combiners) {
    combiner<head_dim, num_stages>{p, shared, warp - num_consumers, lane}.run();
  } else {
    producer<head_dim, num_stages>{p, shared, lane}.run();
  }
}

/// Shared memory of a CTA in a bucket of `max_sequences`.
template <int32_t head_dim, int32_t num_stages>
constexpr uint32_t shared_bytes(int32_t max_sequences) {
  return static_cast<uint32_t>(sizeof(shared_memory<head_dim, num_stages>)) +
         static_cast<uint32_t>(max_sequences) * 4;
}

}  // namespace troupe::gpu::cuda::decode
