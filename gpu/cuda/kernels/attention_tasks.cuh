#pragma once

#include "gpu/cuda/kernels/numeric.cuh"

#include <cmath>
#include <cstdint>

/// What the attention kernels share: the sequences of a step, the paged cache, searches.
namespace troupe::gpu::cuda {

constexpr int32_t chunk_elements = 8;  // bf16 values in 16 bytes

__device__ __forceinline__ float infinity() {
  return __int_as_float(0x7f800000);
}

/// Over the four lanes that hold parts of one row of a product.
__device__ __forceinline__ float quad_max(float value) {
  value = fmaxf(value, __shfl_xor_sync(all_lanes, value, 1));
  return fmaxf(value, __shfl_xor_sync(all_lanes, value, 2));
}
__device__ __forceinline__ float quad_sum(float value) {
  value += __shfl_xor_sync(all_lanes, value, 1);
  return value + __shfl_xor_sync(all_lanes, value, 2);
}

/// Over the eight lanes that hold parts of one column.
__device__ __forceinline__ float column_max(float value) {
#pragma unroll
  for (int32_t mask = 4; mask < warp_size; mask *= 2)
    value = fmaxf(value, __shfl_xor_sync(all_lanes, value, mask));
  return value;
}
__device__ __forceinline__ float column_sum(float value) {
#pragma unroll
  for (int32_t mask = 4; mask < warp_size; mask *= 2)
    value += __shfl_xor_sync(all_lanes, value, mask);
  return value;
}

__device__ __forceinline__ int32_t warp_inclusive_sum(int32_t value, int32_t lane) {
#pragma unroll
  for (int32_t offset = 1; offset < warp_size; offset *= 2) {
    const int32_t before = __shfl_up_sync(all_lanes, value, offset);
    if (lane >= offset) value += before;
  }
  return value;
}

/// The last i < count with starts[i] <= value, of ascending starts that begin with at most `value`.
__device__ __forceinline__ int32_t last_at_most(const int32_t* starts, int32_t count,
                                                int32_t value) {
  int32_t low = 0, high = count;
  while (high - low > 1) {
    const int32_t middle = (low + high) / 2;
    (starts[middle] <= value ? low : high) = middle;
  }
  return low;
}

/// New tokens of a sequence and the keys that the last of them sees.
struct sequence_span {
  int32_t first;
  int32_t tokens;
  int32_t context;
};

/// Consecutive spans of a step: sequences, or segments, which have no lengths of their own.
struct step_sequences {
  const int32_t* start;    // [capacity + 1]
  const int32_t* lengths;  // [capacity], or null: as many keys as tokens
  const int32_t* sequences;
  const int32_t* tokens;
  int32_t max_sequences;
  int32_t max_tokens;

  __device__ int32_t live_sequences() const { return live(sequences, max_sequences); }
  /// Kept inside the step whatever the boundaries say.
  __device__ sequence_span at(int32_t i) const {
    const int32_t end = live(tokens, max_tokens);
    const int32_t first = min(max(start[i], 0), end);
    const int32_t count = min(max(start[i + 1], first), end) - first;
    return {first, count, lengths == nullptr ? count : lengths[i]};
  }
};

/// Keys and values of the sequences, in the paged cache of one layer.
template <class T>
struct paged_keys {
  const T* blocks;
  const int32_t* tables;
  int64_t tables_stride;
  int32_t log2_block_size;
  int32_t num_kv_heads;
  int32_t head_dim;

  __device__ int32_t block_size() const { return 1 << log2_block_size; }
  __device__ const int32_t* table(int32_t sequence) const {
    return tables + sequence * tables_stride;
  }
  /// From a key to its value.
  __device__ int64_t value_offset() const {
    return (int64_t{num_kv_heads} << log2_block_size) * head_dim;
  }
  __device__ const T* row_in(int32_t block, int32_t key, int32_t kv_head) const {
    const int64_t head = int64_t{block} * 2 * num_kv_heads + kv_head;
    return blocks + ((head << log2_block_size) + (key & (block_size() - 1))) * head_dim;
  }
  __device__ const T* row(const int32_t* table, int32_t key, int32_t kv_head) const {
    return row_in(table[key >> log2_block_size], key, kv_head);
  }

  /// One head of one sequence.
  struct reader {
    const paged_keys& cache;
    const int32_t* table;
    int32_t kv_head;
    int32_t lane_block;  // the tile's block number `lane`

    __device__ const T* row(int32_t key) const { return cache.row(table, key, kv_head); }
    __device__ int64_t value_offset() const { return cache.value_offset(); }
    /// Reads the block table for the keys from `first` to at most `last`, a lane a block.
    __device__ void begin_tile(int32_t first, int32_t last) {
      const auto lane = static_cast<int32_t>(threadIdx.x) % warp_size;
      const int32_t block = (first >> cache.log2_block_size) + lane;
      lane_block = table[min(block, last >> cache.log2_block_size)];
    }
    /// Key `first` + `offset` of the tile; all lanes of a warp ask together.
    __device__ const T* row_of_tile(int32_t first, int32_t offset) const {
      const int32_t place = (first & (cache.block_size() - 1)) + offset;
      const int32_t block = __shfl_sync(all_lanes, lane_block, place >> cache.log2_block_size);
      return cache.row_in(block, place, kv_head);
    }
  };
  __device__ reader of(int32_t sequence, const sequence_span&, int32_t kv_head) const {
    return {*this, table(sequence), kv_head, 0};
  }
};

/// Keys and values of the segments, beside the queries.
template <class T>
struct segment_keys {
  const T* keys;  // of head 0
  int64_t stride;
  int64_t heads_width;  // of all heads: from a key to its value
  int32_t head_dim;

  struct reader {
    const T* first_row;
    int64_t stride;
    int64_t heads_width;

    __device__ const T* row(int32_t key) const { return first_row + key * stride; }
    __device__ int64_t value_offset() const { return heads_width; }
    __device__ void begin_tile(int32_t, int32_t) {}
    __device__ const T* row_of_tile(int32_t first, int32_t offset) const {
      return row(first + offset);
    }
  };
  __device__ reader of(int32_t, const sequence_span& span, int32_t head) const {
    return {keys + span.first * stride + head * head_dim, stride, heads_width};
  }
};

/// Attention of tokens that read their keys through `Keys`. Strides in elements.
template <class T, class Keys>
struct attention_call {
  T* output;
  int64_t output_stride;
  const T* query;
  int64_t query_stride;
  Keys keys;
  step_sequences step;
  int32_t num_kv_heads;
  int32_t group;  // query heads that share a key-value head
  int32_t head_dim;
  int32_t shortest;  // sequences of fewer tokens are left to another kernel
  bool causal;
  float scale_log2;  // of a score, for powers of two

  /// Keys that token `token` of the sequence sees.
  __device__ int32_t visible_keys(const sequence_span& span, int32_t token) const {
    return causal ? span.context - span.tokens + token + 1 : span.context;
  }
  __device__ const T* query_row(int32_t token, int32_t head) const {
    return query + token * query_stride + head * head_dim;
  }
  __device__ T* output_row(int32_t token, int32_t head) const {
    return output + token * output_stride + head * head_dim;
  }
};

/// For scores q * k / sqrt(head_dim) as powers of two.
inline float scale_log2(int32_t head_dim) {
  return 1.44269504F / std::sqrt(static_cast<float>(head_dim));
}

}  // namespace troupe::gpu::cuda
