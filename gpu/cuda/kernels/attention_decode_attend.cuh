#pragma once

#include "gpu/cuda/kernels/attention_decode_plan.cuh"
#include "gpu/cuda/kernels/attention_decode_rotate.cuh"
#include "gpu/cuda/kernels/launch.cuh"

#include <type_traits>

namespace troupe::gpu::cuda::decode {

/// An attending warp. Keys are the rows of the first product and queries its columns, dimensions
/// the rows of the second: so few queries leave no part of a product idle.
template <int32_t head_dim, int32_t num_stages, int32_t row_tiles, bool rotates>
struct consumer {
  // A thread reads `width` neighbouring dimensions of a value at once, `parts` times.
  static constexpr int32_t width = head_dim >= 64 ? 8 : head_dim / 8;
  static constexpr int32_t parts = head_dim / (8 * width);
  static constexpr int32_t words = width / 2;
  static constexpr int32_t key_parts =
      head_dim / 32;  // chunks of a key or query that a thread reads

  const parameters& p;
  shared_memory<head_dim, num_stages>& shared;
  int32_t warp;
  int32_t g;  // lane / 4
  int32_t t;  // lane % 4
  ring_place<num_stages> place;
  ring_place<num_handovers> handover;
  uint4 query[row_tiles][key_parts];  // of row 8n + g
  // Of the rows 8n + 2t and the next: [0], [1] in dimension part * 64 + 8g + 2 * word, [2], [3] one
  // further.
  float sums[row_tiles][parts][words][4];
  float peak[row_tiles][2];
  float total[row_tiles][2];
  std::conditional_t<rotates, head_rotator<head_dim>, no_rotator> rotator;

  __device__ void run() {
    if constexpr (rotates) prepare_rotation();
    wait_for_predecessor();
    while (true) {
      barrier_wait(&shared.full[place.index], place.parity);
      const tile_note note = shared.notes[place.index];
      if (note.keys == 0) return hand_over(note);
      auto& stage = shared.stages[place.index];
      if constexpr (rotates) rotate(stage, note);
      if (note.flags & first_tile) begin_task(stage);
      if (warp * warp_keys < note.keys) attend(stage, note);
      __syncwarp();
      if (g == 0 && t == 0) barrier_arrive(&shared.empty[place.index]);
      place.advance();
      if (note.flags & last_tile) end_task(note);
    }
  }

  /// What does not depend on any kernel.
  __device__ void prepare_rotation() {
    for (int32_t i = thread(); i < head_dim; i += consumer_threads) {
      shared.q_weight[i] = p.heads.q_weight[i];
      shared.k_weight[i] = p.heads.k_weight[i];
    }
    named_barrier_sync(first_token_barrier, warp_size + consumer_threads);
    if (shared.first_token >= 0) rotator.aim(p.heads, shared.first_token);
  }

  /// Brings what comes from qkv, normed and rotated: the task's queries, shared among the warps,
  /// and the new ones of this warp's keys. The first key is on its way while the queries are.
  __device__ void rotate(stage<head_dim>& stage, const tile_note& note) {
    using head = typename head_rotator<head_dim>::head;
    constexpr int32_t half = head_rotator<head_dim>::half;
    const int32_t end = min(note.keys, (warp + 1) * warp_keys);
    int32_t key = max(note.first_new - note.first_key, warp * warp_keys);
    head key_head, value_head;
    const auto load_key = [&] {
      const bf16* source =
          p.call.query_row(note.sequence_first + note.first_key + key - note.first_new,
                           p.call.num_kv_heads * p.call.group + note.kv_head);
      key_head = head::load(source, half);
      value_head = head::load(source + p.call.num_kv_heads * head_dim, half);
    };
    if (key < end) load_key();
    if (note.flags & first_tile) {
      for (int32_t row = warp; row < note.tokens * p.call.group; row += num_consumers) {
        const int32_t token = note.first_token + row / p.call.group;
        head query_head = head::load(
            p.call.query_row(token, note.kv_head * p.call.group + row % p.call.group), half);
        rotator.turn(query_head, p.heads, shared.q_weight, token);
        query_head.store(stage.query[row], half);
      }
    }
    for (; key < end; ++key) {
      const int32_t token = note.sequence_first + note.first_key + key - note.first_new;
      if (key > max(note.first_new - note.first_key, warp * warp_keys)) load_key();
      rotator.turn(key_head, p.heads, shared.k_weight, token);
      key_head.store(stage.keys[key], half);
      value_head.store(stage.values[key], half);
      if (token >= note.first_token && token < note.first_token + note.tokens)
        rotator.store(p, key_head, value_head, note.kv_head);
    }
    fence_shared_for_async();  // of later tiles, to where this one was changed
    __syncwarp();
    if (note.flags & first_tile) meet();
  }

  /// Dimension i of a product's depth may be any, if it is the same for query and key: a thread
  /// takes 16 bytes, and those are the depths that it holds in two products.
  __device__ void begin_task(const stage<head_dim>& stage) {
#pragma unroll
    for (int32_t n = 0; n < row_tiles; ++n) {
#pragma unroll
      for (int32_t i = 0; i < key_parts; ++i)
        query[n][i] =
            *reinterpret_cast<const uint4*>(&stage.query[8 * n + g][(4 * i + t) * chunk_elements]);
#pragma unroll
      for (auto& part : sums[n])
        for (auto& word : part)
          for (float& sum : word) sum = 0;
      peak[n][0] = peak[n][1] = -infinity();
      total[n][0] = total[n][1] = 0;
    }
  }

  __device__ void attend(const stage<head_dim>& stage, const tile_note& note) {
    float scores[row_tiles][4];  // [n][2h + j]: of key 8h + g and row 8n + 2t + j
    score(scores, stage);
    if (note.first_key + tile_keys > note.visible_first || note.keys < tile_keys)
      mask(scores, note);
    uint32_t weights[row_tiles][2];
    weigh(weights, scores);
    add_values(stage, weights, note.keys);
  }

  __device__ void score(float (&scores)[row_tiles][4], const stage<head_dim>& stage) const {
#pragma unroll
    for (auto& tile : scores)
      for (float& value : tile) value = 0;
    const bf16* first = stage.keys[warp * warp_keys + g];
    const bf16* second = stage.keys[warp * warp_keys + 8 + g];
#pragma unroll
    for (int32_t i = 0; i < key_parts; ++i) {
      const uint4 low = *reinterpret_cast<const uint4*>(first + (4 * i + t) * chunk_elements);
      const uint4 high = *reinterpret_cast<const uint4*>(second + (4 * i + t) * chunk_elements);
#pragma unroll
      for (int32_t n = 0; n < row_tiles; ++n) {
        mma_16x8x16(scores[n], {low.x, high.x, low.y, high.y}, query[n][i].x, query[n][i].y);
        mma_16x8x16(scores[n], {low.z, high.z, low.w, high.w}, query[n][i].z, query[n][i].w);
      }
    }
  }

  __device__ void mask(float (&scores)[row_tiles][4], const tile_note& note) const {
#pragma unroll
    for (int32_t n = 0; n < row_tiles; ++n)
#pragma unroll
      for (int32_t j = 0; j < 2; ++j) {
        const int32_t token = (8 * n + 2 * t + j) / p.call.group;
        const int32_t visible = min(note.visible_first + token - note.first_key, note.keys);
#pragma unroll
        for (int32_t half = 0; half < 2; ++half)
          if (warp * warp_keys + 8 * half + g >= visible) scores[n][2 * half + j] = -infinity();
      }
  }

  /// Scores to weights, rounded for the product and turned from keys by rows to rows by keys; what
  /// was summed under an older peak is rescaled.
  __device__ void weigh(uint32_t (&weights)[row_tiles][2], float (&scores)[row_tiles][4]) {
#pragma unroll
    for (int32_t n = 0; n < row_tiles; ++n) {
#pragma unroll
      for (int32_t j = 0; j < 2; ++j) {
        float& a = scores[n][j];
        float& b = scores[n][2 + j];
        const float largest = fmaxf(peak[n][j], column_max(fmaxf(a, b)));
        const float offset = largest == -infinity() ? 0 : largest * p.call.scale_log2;
        const float shrink = exp2_approximate(peak[n][j] * p.call.scale_log2 - offset);
        peak[n][j] = largest;
        a = rounded<bf16>(exp2_approximate(fmaf(a, p.call.scale_log2, -offset)));
        b = rounded<bf16>(exp2_approximate(fmaf(b, p.call.scale_log2, -offset)));
        total[n][j] = total[n][j] * shrink + (a + b);
#pragma unroll
        for (auto& part : sums[n])
#pragma unroll
          for (auto& word : part) {
            word[j] *= shrink;
            word[2 + j] *= shrink;
          }
      }
#pragma unroll
      for (int32_t half = 0; half < 2; ++half)
        weights[n][half] = transpose_8x8(pack_bf16(scores[n][2 * half], scores[n][2 * half + 1]));
    }
  }

  /// A thread's four keys are the depths it holds; the dimensions it reads are rows of as many
  /// products. Keys past the tile's hold anything, also NaN.
  __device__ void add_values(const stage<head_dim>& stage, const uint32_t (&weights)[row_tiles][2],
                             int32_t keys) {
    using vector = std::conditional_t<width == 8, uint4, uint2>;
#pragma unroll
    for (int32_t part = 0; part < parts; ++part) {
      uint32_t values[4][words];
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t key = warp * warp_keys + 2 * t + (i & 1) + (i & 2) * 4;
        const auto value =
            *reinterpret_cast<const vector*>(&stage.values[key][(part * 8 + g) * width]);
#pragma unroll
        for (int32_t word = 0; word < words; ++word)
          values[i][word] = key < keys ? reinterpret_cast<const uint32_t*>(&value)[word] : 0;
      }
#pragma unroll
      for (int32_t word = 0; word < words; ++word) {
        constexpr uint32_t lower = 0x5410, upper = 0x7632;
        const uint32_t dimensions[4] = {__byte_perm(values[0][word], values[1][word], lower),
                                        __byte_perm(values[0][word], values[1][word], upper),
                                        __byte_perm(values[2][word], values[3][word], lower),
                                        __byte_perm(values[2][word], values[3][word], upper)};
#pragma unroll
        for (int32_t n = 0; n < row_tiles; ++n)
          mma_16x8x16(sums[n][part][word], dimensions, weights[n][0], weights[n][1]);
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
    const int32_t rows = note.tokens * p.call.group;
#pragma unroll
    for (int32_t n = 0; n < row_tiles; ++n)
#pragma unroll
      for (int32_t j = 0; j < 2; ++j) {
        total[n][j] = column_sum(total[n][j]);
        if (g == 0)
          shared.statistics[warp][8 * n + 2 * t + j] = make_float2(peak[n][j], total[n][j]);
      }
#pragma unroll
    for (int32_t n = 0; n < row_tiles; ++n) {
      if (n * combine_rows >= rows) break;
      meet();
      share_sums(n);
      meet();
      const int32_t row = n * combine_rows + result_row();
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

  __device__ __forceinline__ void share_sums(int32_t n) {
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      const int32_t row = 2 * t + j;
      const float factor = rescale(p, peak[n][j], warps_statistics(8 * n + row).x);
#pragma unroll
      for (int32_t part = 0; part < parts; ++part)
#pragma unroll
        for (int32_t word = 0; word < words; ++word) {
          const auto& sum = sums[n][part][word];
          *reinterpret_cast<float2*>(&shared.sums[warp][row][(part * 8 + g) * width + 2 * word]) =
              make_float2(sum[j] * factor, sum[2 + j] * factor);
        }
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

}  // namespace troupe::gpu::cuda::decode
