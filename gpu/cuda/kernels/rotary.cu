#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/rotary.cuh"
#include "gpu/cuda/kernels/rotary.hpp"
#include "gpu/cuda/kernels/typed.cuh"

#include <algorithm>
#include <array>
#include <cmath>

namespace troupe::gpu::cuda {
namespace {

constexpr int32_t block_threads = 256;
constexpr int32_t warps_per_block = block_threads / warp_size;
constexpr int32_t half_dim_max = 128;  // head_dim up to 256
constexpr int32_t pairs_per_lane = half_dim_max / warp_size;

/// cos and sin of one token's angles.
struct angle_table {
  float cosine[half_dim_max];
  float sine[half_dim_max];
};

struct text_rope_shape {
  int32_t q_heads, kv_heads, half_dim;
  int32_t block_size;
  float epsilon;
};

template <class T>
struct head_weights {
  const T* query;
  const T* key;
};

/// Block (token, part): its warps share the heads of that part: queries in place, keys and values into
/// the cache.
template <class T>
__global__ void text_rope_kernel(matrix<T> qkv, head_weights<T> weights, rotary_source source,
                                 const int32_t* slot_mapping, T* cache, text_rope_shape shape,
                                 int32_t capacity, const int32_t* live_tokens) {
  using pairs = lane_pairs<pairs_per_lane>;
  __shared__ float2 table[half_dim_max];
  release_successor();
  const int32_t token = static_cast<int32_t>(blockIdx.x), half = shape.half_dim;
  const bool alive = token < live(live_tokens, capacity);
  // Positions are inputs of the step: no kernel writes them.
  if (alive)
    for (int32_t i = static_cast<int32_t>(threadIdx.x); i < half; i += block_threads)
      table[i] = source.angle(token, i);
  __syncthreads();
  const auto angles = lane_angles<pairs_per_lane>::of_table(table, half);
  wait_for_predecessor();
  if (!alive) return;

  const int32_t warp = static_cast<int32_t>(threadIdx.x / warp_size), dim = 2 * half;
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
  const int32_t heads = shape.q_heads + 2 * shape.kv_heads;
  const int32_t slot = slot_mapping[token];
  const int64_t head_span = static_cast<int64_t>(shape.block_size) * dim;
  const int64_t block_span = shape.kv_heads * head_span;
  T* block = cache + static_cast<int64_t>(slot / shape.block_size) * 2 * block_span +
             slot % shape.block_size * dim;
  const int32_t step = warps_per_block * static_cast<int32_t>(gridDim.y);
  for (int32_t h = warp + warps_per_block * static_cast<int32_t>(blockIdx.y); h < heads; h += step) {
    T* head = qkv.row(token) + static_cast<int64_t>(h) * dim;
    if (h < shape.q_heads) {
      norm_and_rotate<T>(pairs::load(head, half), pairs::load(weights.query, half), angles, half,
                         shape.epsilon)
          .store(head, half);
      continue;
    }
    if (slot < 0) continue;
    const int32_t kv = (h - shape.q_heads) % shape.kv_heads;
    T* key = block + kv * head_span;
    if (h < shape.q_heads + shape.kv_heads)
      norm_and_rotate<T>(pairs::load(head, half), pairs::load(weights.key, half), angles, half,
                         shape.epsilon)
          .store(key, half);
    else
      for (int32_t i = lane; i < dim; i += warp_size) key[block_span + i] = head[i];
  }
}

/// Frequencies of one axis, by value: constants of the model.
struct axis_frequencies {
  float values[half_dim_max / 2];
};

axis_frequencies frequencies_of(int32_t head_dim, float theta) {
  axis_frequencies result{};
  for (int32_t j = 0; j < head_dim / 4; ++j)
    result.values[j] = 1.0F / std::pow(theta, static_cast<float>(2 * j) /
                                                  static_cast<float>(head_dim / 2));
  return result;
}

/// Two elements side by side, read and written at once.
template <class T>
struct alignas(2 * sizeof(T)) neighbours {
  T values[2];
};

/// One block per patch: a thread turns two neighbouring pairs of a head of q or k at a time.
template <class T>
__global__ void vision_rope_kernel(matrix<T> qkv, matrix<const int32_t> coordinates,
                                   axis_frequencies frequencies, int32_t num_heads, int32_t half,
                                   int32_t capacity, const int32_t* live_patches) {
  __shared__ angle_table angles;
  release_successor();
  wait_for_predecessor();
  const int32_t patch = static_cast<int32_t>(blockIdx.x), quarter = half / 2;
  if (patch >= live(live_patches, capacity)) return;
  const int32_t* place = coordinates.row(patch);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < half; i += block_threads) {
    const int32_t axis = i / quarter;
    sincosf(static_cast<float>(place[axis]) * frequencies.values[i % quarter], &angles.sine[i],
            &angles.cosine[i]);
  }
  __syncthreads();
  T* heads = qkv.row(patch);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < 2 * num_heads * quarter;
       i += block_threads) {
    const int32_t pair = 2 * (i % quarter);
    T* head = heads + static_cast<int64_t>(i / quarter) * 2 * half + pair;
    auto* low = reinterpret_cast<neighbours<T>*>(head);
    auto* high = reinterpret_cast<neighbours<T>*>(head + half);
    neighbours<T> first = *low, second = *high;
#pragma unroll
    for (int32_t j = 0; j < 2; ++j) {
      const float x = to_f32(first.values[j]), y = to_f32(second.values[j]);
      const float cosine = angles.cosine[pair + j], sine = angles.sine[pair + j];
      first.values[j] = from_f32<T>(x * cosine - y * sine);
      second.values[j] = from_f32<T>(y * cosine + x * sine);
    }
    *low = first;
    *high = second;
  }
}

/// One axis of the bilinear interpolation: two neighbouring table rows and the second one's share.
struct interpolation {
  int32_t low, high;
  float share;
};

__device__ __forceinline__ interpolation interpolate(int32_t place, int32_t extent, int32_t side) {
  if (extent <= 1) return {0, 0, 0.0F};
  const float position = __fdiv_rn(__fmul_rn(static_cast<float>(place), static_cast<float>(side - 1)),
                                   static_cast<float>(extent - 1));
  const int32_t low = min(static_cast<int32_t>(position), side - 1);
  return {low, min(low + 1, side - 1), position - static_cast<float>(low)};
}

/// One block per patch.
template <class T>
__global__ void position_embedding_kernel(matrix<T> x, matrix<const T> table,
                                          matrix<const int32_t> coordinates, int32_t width,
                                          int32_t side, int32_t capacity,
                                          const int32_t* live_patches) {
  release_successor();
  wait_for_predecessor();
  const int32_t patch = static_cast<int32_t>(blockIdx.x);
  if (patch >= live(live_patches, capacity)) return;
  const int32_t* place = coordinates.row(patch);
  const interpolation vertical = interpolate(place[0], place[2], side);
  const interpolation horizontal = interpolate(place[1], place[3], side);
  const T* corners[4] = {table.row(vertical.low * side + horizontal.low),
                         table.row(vertical.low * side + horizontal.high),
                         table.row(vertical.high * side + horizontal.low),
                         table.row(vertical.high * side + horizontal.high)};
  const float weights[4] = {(1 - vertical.share) * (1 - horizontal.share),
                            (1 - vertical.share) * horizontal.share,
                            vertical.share * (1 - horizontal.share),
                            vertical.share * horizontal.share};
  T* target = x.row(patch);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += block_threads) {
    float embedding = 0;
#pragma unroll
    for (int32_t c = 0; c < 4; ++c) embedding += weights[c] * to_f32(corners[c][i]);
    target[i] = from_f32<T>(to_f32(target[i]) + rounded<T>(embedding));
  }
}

}  // namespace

void launch_text_rope(const text_rope_arguments& a, const launch_context& on) {
  with_activation(a.qkv.type, [&]<class T>(T) {
    const auto dim = static_cast<int32_t>(a.cache.blocks.width());
    const auto capacity = static_cast<int32_t>(a.qkv.rows());
    const int32_t heads = static_cast<int32_t>(a.qkv.width()) / dim;
    const text_rope_shape shape{heads - 2 * a.cache.num_kv_heads,
                                a.cache.num_kv_heads,
                                dim / 2,
                                a.cache.block_size,
                                a.epsilon};
    // Few tokens: one head per warp, for latency. Many: one block has all heads, and the angles once.
    const int32_t parts = capacity <= 64 ? (heads + warps_per_block - 1) / warps_per_block : 1;
    launch_kernel("qk_norm_rope_cache_write", text_rope_kernel<T>,
                  dim3(static_cast<uint32_t>(capacity), static_cast<uint32_t>(parts)), block_threads,
                  0, on, matrix_of<T>(a.qkv),
                  head_weights<T>{a.q_weight.as<const T>(), a.k_weight.as<const T>()},
                  rotary_source{a.positions.as<const int32_t>(),
                                a.rotary.inverse_frequency.as<const float>(),
                                a.rotary.axis.as<const int32_t>(),
                                static_cast<int32_t>(a.positions.row_stride),
                                a.rotary.attention_factor},
                  a.slot_mapping.as<const int32_t>(), a.cache.blocks.as<T>(), shape, capacity,
                  a.live);
  });
}

void launch_vision_rope(const vision_rope_arguments& a, const launch_context& on) {
  with_activation(a.qkv.type, [&]<class T>(T) {
    const auto head_dim = static_cast<int32_t>(a.qkv.width() / (3 * int64_t{a.num_heads}));
    const auto capacity = static_cast<int32_t>(a.qkv.rows());
    launch_kernel("vision_rope", vision_rope_kernel<T>, static_cast<uint32_t>(capacity),
                  block_threads, 0, on, matrix_of<T>(a.qkv),
                  matrix_of<const int32_t>(a.coordinates), frequencies_of(head_dim, a.theta),
                  a.num_heads, head_dim / 2, capacity, a.live);
  });
}

void launch_position_embedding(const position_embedding_arguments& a, const launch_context& on) {
  with_activation(a.x.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.x.rows());
    launch_kernel("add_position_embedding", position_embedding_kernel<T>,
                  static_cast<uint32_t>(capacity), block_threads, 0, on, matrix_of<T>(a.x),
                  matrix_of<const T>(a.table), matrix_of<const int32_t>(a.coordinates),
                  static_cast<int32_t>(a.x.width()), a.side, capacity, a.live);
  });
}

}  // namespace troupe::gpu::cuda
