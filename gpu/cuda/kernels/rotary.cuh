#pragma once

#include "gpu/cuda/kernels/numeric.cuh"
#include "gpu/cuda/kernels/rotary.hpp"
#include "gpu/cuda/kernels/typed.cuh"

/// Norm and rotation of one head by one warp, and where keys and values go.
namespace troupe::gpu::cuda {

constexpr int32_t half_dim_max = 128;  // head_dim up to 256
constexpr int32_t pairs_per_lane = half_dim_max / warp_size;

/// cos and sin of a token's angles, as far as lane l needs them: of pairs l, l + 32, ...
struct lane_angles {
  float cosine[pairs_per_lane], sine[pairs_per_lane];
};

/// All that the rotation of queries and keys of a text model needs, by value.
template <class T>
struct text_rope_kernel_arguments {
  matrix<T> qkv;
  const T* q_weight;
  const T* k_weight;
  const int32_t* positions;  // [3, max_tokens]
  const float* inverse_frequency;
  const int32_t* axis;
  const int32_t* slot_mapping;
  T* cache;
  int32_t q_heads, kv_heads, half_dim, block_size, max_tokens;
  float epsilon, attention_factor;
};

template <class T>
text_rope_kernel_arguments<T> kernel_arguments_of(const text_rope_arguments& a) {
  const auto dim = static_cast<int32_t>(a.cache.blocks.width());
  const int32_t heads = static_cast<int32_t>(a.qkv.width()) / dim;
  return {matrix_of<T>(a.qkv),
          a.q_weight.as<const T>(),
          a.k_weight.as<const T>(),
          a.positions.as<const int32_t>(),
          a.rotary.inverse_frequency.as<const float>(),
          a.rotary.axis.as<const int32_t>(),
          a.slot_mapping.as<const int32_t>(),
          a.cache.blocks.as<T>(),
          heads - 2 * a.cache.num_kv_heads,
          a.cache.num_kv_heads,
          dim / 2,
          a.cache.block_size,
          static_cast<int32_t>(a.positions.row_stride),
          a.epsilon,
          a.rotary.attention_factor};
}

template <class T>
__device__ __forceinline__ lane_angles angles_of(const text_rope_kernel_arguments<T>& a,
                                                 int32_t token) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
  lane_angles angles;
#pragma unroll
  for (int32_t p = 0; p < pairs_per_lane; ++p) {
    const int32_t pair = lane + p * warp_size;
    angles.sine[p] = angles.cosine[p] = 0;
    if (pair >= a.half_dim) continue;
    const int32_t position = a.positions[a.axis[pair] * a.max_tokens + token];
    sincosf(static_cast<float>(position) * a.inverse_frequency[pair], &angles.sine[p],
            &angles.cosine[p]);
    angles.sine[p] *= a.attention_factor;
    angles.cosine[p] *= a.attention_factor;
  }
  return angles;
}

/// Past the first-level cache, which may hold what the head was before another multiprocessor wrote it.
__device__ __forceinline__ float load_fresh(const float* address) { return __ldcg(address); }
__device__ __forceinline__ bf16 load_fresh(const bf16* address) { return __ldcg(address); }

/// A warp norms (RMS) and rotates one head; each value is rounded as `operations` says.
template <class T>
__device__ void norm_and_rotate(T* output, const T* head, const T* weight, const lane_angles& angles,
                                int32_t half, float epsilon) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
  float low[pairs_per_lane], high[pairs_per_lane];
  float squares = 0;
#pragma unroll
  for (int32_t p = 0; p < pairs_per_lane; ++p) {
    const int32_t i = lane + p * warp_size;
    low[p] = i < half ? to_f32(load_fresh(head + i)) : 0;
    high[p] = i < half ? to_f32(load_fresh(head + half + i)) : 0;
    squares += low[p] * low[p] + high[p] * high[p];
  }
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(2 * half) + epsilon);
#pragma unroll
  for (int32_t p = 0; p < pairs_per_lane; ++p) {
    const int32_t i = lane + p * warp_size;
    if (i >= half) continue;
    const float first = rounded<T>(to_f32(weight[i]) * rounded<T>(low[p] * scale));
    const float second = rounded<T>(to_f32(weight[half + i]) * rounded<T>(high[p] * scale));
    output[i] = from_f32<T>(first * angles.cosine[p] - second * angles.sine[p]);
    output[half + i] = from_f32<T>(second * angles.cosine[p] + first * angles.sine[p]);
  }
}

/// What becomes of head `h` of `token`: a query is normed and rotated in place; a key is so on its way
/// into the cache, a value is copied there (unless the token has no slot). One warp calls it.
template <class T>
__device__ void place_head(const text_rope_kernel_arguments<T>& a, int32_t token, int32_t h,
                           const lane_angles& angles) {
  const int32_t dim = 2 * a.half_dim;
  T* head = a.qkv.row(token) + static_cast<int64_t>(h) * dim;
  if (h < a.q_heads)
    return norm_and_rotate(head, head, a.q_weight, angles, a.half_dim, a.epsilon);
  const int32_t slot = a.slot_mapping[token];
  if (slot < 0) return;
  const int64_t head_span = static_cast<int64_t>(a.block_size) * dim;
  const int64_t block_span = a.kv_heads * head_span;
  T* key = a.cache + static_cast<int64_t>(slot / a.block_size) * 2 * block_span +
           (h - a.q_heads) % a.kv_heads * head_span + slot % a.block_size * dim;
  if (h < a.q_heads + a.kv_heads)
    return norm_and_rotate(key, head, a.k_weight, angles, a.half_dim, a.epsilon);
  for (int32_t i = static_cast<int32_t>(threadIdx.x % warp_size); i < dim; i += warp_size)
    key[block_span + i] = load_fresh(head + i);
}

}  // namespace troupe::gpu::cuda
