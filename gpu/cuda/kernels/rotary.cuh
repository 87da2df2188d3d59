#pragma once

#include "gpu/cuda/kernels/numeric.cuh"

#include <cstdint>

/// Norm and rotation of one head of the text model, by a warp: the same bits wherever it is done.
namespace troupe::gpu::cuda {

struct rotary_source {
  const int32_t* positions;  // [3, max_tokens]
  const float* inverse_frequency;
  const int32_t* axis;
  int32_t max_tokens;  // row length of the positions
  float attention_factor;

  /// cos and sin of the angle by which pair `i` of a token turns.
  __device__ __forceinline__ float2 angle(int32_t token, int32_t i) const {
    const int32_t position = positions[axis[i] * max_tokens + token];
    float sine, cosine;
    sincosf(static_cast<float>(position) * inverse_frequency[i], &sine, &cosine);
    return {cosine * attention_factor, sine * attention_factor};
  }
};

/// The calling lane's elements of a head or of its weight: of the pairs (i, i + half) those of i =
/// lane, lane + 32, ...; zero past the end.
template <int32_t pairs>
struct lane_pairs {
  float low[pairs], high[pairs];

  template <class T>
  __device__ __forceinline__ static lane_pairs load(const T* head, int32_t half) {
    lane_pairs result;
#pragma unroll
    for (int32_t p = 0; p < pairs; ++p) {
      const int32_t i = static_cast<int32_t>(threadIdx.x % warp_size) + p * warp_size;
      result.low[p] = i < half ? to_f32(head[i]) : 0;
      result.high[p] = i < half ? to_f32(head[half + i]) : 0;
    }
    return result;
  }

  template <class T>
  __device__ __forceinline__ void store(T* head, int32_t half) const {
#pragma unroll
    for (int32_t p = 0; p < pairs; ++p) {
      const int32_t i = static_cast<int32_t>(threadIdx.x % warp_size) + p * warp_size;
      if (i >= half) continue;
      head[i] = from_f32<T>(low[p]);
      head[half + i] = from_f32<T>(high[p]);
    }
  }
};

/// cos and sin for the same pairs.
template <int32_t pairs>
struct lane_angles {
  float2 values[pairs];

  __device__ __forceinline__ static lane_angles of(const rotary_source& source, int32_t token,
                                                   int32_t half) {
    return collect(half, [&](int32_t i) { return source.angle(token, i); });
  }
  /// `table` holds the token's angles.
  __device__ __forceinline__ static lane_angles of_table(const float2* table, int32_t half) {
    return collect(half, [&](int32_t i) { return table[i]; });
  }

 private:
  template <class Angle>
  __device__ __forceinline__ static lane_angles collect(int32_t half, Angle angle) {
    lane_angles result;
#pragma unroll
    for (int32_t p = 0; p < pairs; ++p) {
      const int32_t i = static_cast<int32_t>(threadIdx.x % warp_size) + p * warp_size;
      result.values[p] = i < half ? angle(i) : float2{};
    }
    return result;
  }
};

/// A head normed (RMS) and rotated, rounded to T.
template <class T, int32_t pairs>
__device__ __forceinline__ lane_pairs<pairs> norm_and_rotate(const lane_pairs<pairs>& head,
                                                             const lane_pairs<pairs>& weight,
                                                             const lane_angles<pairs>& angles,
                                                             int32_t half, float epsilon) {
  float squares = 0;
#pragma unroll
  for (int32_t p = 0; p < pairs; ++p)
    squares = fmaf(head.low[p], head.low[p], fmaf(head.high[p], head.high[p], squares));
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(2 * half) + epsilon);
  lane_pairs<pairs> result;
#pragma unroll
  for (int32_t p = 0; p < pairs; ++p) {
    const float first = rounded<T>(weight.low[p] * rounded<T>(head.low[p] * scale));
    const float second = rounded<T>(weight.high[p] * rounded<T>(head.high[p] * scale));
    const float cosine = angles.values[p].x, sine = angles.values[p].y;
    result.low[p] = rounded<T>(fmaf(first, cosine, -__fmul_rn(second, sine)));
    result.high[p] = rounded<T>(fmaf(second, cosine, __fmul_rn(first, sine)));
  }
  return result;
}

}  // namespace troupe::gpu::cuda
