#pragma once

#include "gpu/cuda/kernels/attention_paged.hpp"
#include "gpu/cuda/kernels/attention_tasks.cuh"
#include "gpu/cuda/kernels/mma.cuh"
#include "gpu/cuda/kernels/rotary.cuh"

#include <cstddef>
#include <cstdint>

/// What the warps of the decode kernel (attention_decode.cuh) share.
namespace troupe::gpu::cuda::decode {

constexpr int32_t row_count =
    16;  // of a task at most: tokens * query heads that share a key-value head
constexpr int32_t tile_keys = 64;
constexpr int32_t num_consumers = 4;
constexpr int32_t consumer_threads = num_consumers * warp_size;
constexpr int32_t num_combiners =
    3;  // with the others two warps on each of a multiprocessor's parts
constexpr int32_t combiner_threads = num_combiners * warp_size;
constexpr int32_t block_threads = consumer_threads + combiner_threads + warp_size;
constexpr int32_t num_handovers = 2;
constexpr int32_t warp_keys = tile_keys / num_consumers;
constexpr int32_t combine_rows = 8;  // rows whose sums meet in shared memory at once
static_assert(warp_keys == 16, "one product's depth");
constexpr int32_t consumer_barrier = 1, combiner_barrier = 2, first_token_barrier = 3;

/// Splits that the tokens of one sequence have at most, together: few heads need more of them to
/// occupy the device. A lane of a warp each when they are combined.
constexpr int32_t max_splits(int32_t num_kv_heads) {
  return num_kv_heads > 4 ? 16 : 32;
}
static_assert(max_splits(1) <= warp_size);
constexpr int32_t split_tiles_min = 2;  // less is not worth the combining

/// Rows of a task: as many as the products of one group take.
__host__ __device__ constexpr int32_t task_rows(int32_t group) {
  return group <= row_count / 2 ? row_count / 2 : row_count;
}

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

/// How the kernel norms and rotates the heads of the step's tokens itself.
struct new_heads {
  const bf16* q_weight;
  const bf16* k_weight;
  rotary_source rotary;
  float epsilon;
  const int32_t* slot_mapping;
  bf16* cache;
};

struct parameters {
  attention_call<bf16, paged_keys<bf16>> call;
  new_heads heads;          // where the kernel rotates
  int32_t tokens_per_tile;  // task_rows / group
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
  int32_t sequence_first;  // the sequence's first token in the step
  int32_t first_new;       // and that token's key in the context
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
  bf16 q_weight[head_dim], k_weight[head_dim];
  int32_t first_token;    // of the CTA's first task, or -1
  int32_t task_start[1];  // [sequences + 1] follow
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

}  // namespace troupe::gpu::cuda::decode
