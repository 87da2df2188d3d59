#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

/// Values and reductions that all kernels share. `T` is float or __nv_bfloat16.
namespace troupe::gpu::cuda {

using bf16 = __nv_bfloat16;

constexpr int32_t warp_size = 32;
constexpr uint32_t all_lanes = 0xffffffffU;

__device__ __forceinline__ float to_f32(float value) { return value; }
__device__ __forceinline__ float to_f32(bf16 value) { return __bfloat162float(value); }

/// One rounding to T (none for float).
template <class T>
__device__ __forceinline__ T from_f32(float value);
template <>
__device__ __forceinline__ float from_f32<float>(float value) { return value; }
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float value) { return __float2bfloat16_rn(value); }

/// `value` as it would be after a round trip through memory of type T.
template <class T>
__device__ __forceinline__ float rounded(float value) { return to_f32(from_f32<T>(value)); }

/// 16 bytes of T as floats.
template <class T>
struct vector16;

template <>
struct vector16<float> {
  static constexpr int32_t size = 4;
  float4 bits;
  __device__ __forceinline__ float get(int32_t i) const {
    return reinterpret_cast<const float*>(&bits)[i];
  }
  __device__ __forceinline__ void set(int32_t i, float value) {
    reinterpret_cast<float*>(&bits)[i] = value;
  }
};

template <>
struct vector16<bf16> {
  static constexpr int32_t size = 8;
  uint4 bits;
  __device__ __forceinline__ float get(int32_t i) const {
    return __bfloat162float(reinterpret_cast<const bf16*>(&bits)[i]);
  }
  __device__ __forceinline__ void set(int32_t i, float value) {
    reinterpret_cast<bf16*>(&bits)[i] = __float2bfloat16_rn(value);
  }
};

template <class T>
__device__ __forceinline__ vector16<T> load16(const T* address) {
  vector16<T> value;
  value.bits = *reinterpret_cast<const decltype(value.bits)*>(address);
  return value;
}
template <class T>
__device__ __forceinline__ void store16(T* address, const vector16<T>& value) {
  *reinterpret_cast<decltype(value.bits)*>(address) = value.bits;
}

__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
  for (int32_t offset = warp_size / 2; offset > 0; offset /= 2)
    value += __shfl_xor_sync(all_lanes, value, offset);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
  for (int32_t offset = warp_size / 2; offset > 0; offset /= 2)
    value = fmaxf(value, __shfl_xor_sync(all_lanes, value, offset));
  return value;
}

/// Sum of the values of the lanes up to this one.
template <class Value>
__device__ __forceinline__ Value warp_inclusive_sum(Value value) {
#pragma unroll
  for (int32_t offset = 1; offset < warp_size; offset *= 2) {
    const Value before = __shfl_up_sync(all_lanes, value, offset);
    if (static_cast<int32_t>(threadIdx.x) % warp_size >= offset) value += before;
  }
  return value;
}

/// Sum over the block, the same bits in every thread. `shared` holds one float per warp; all threads call
/// it, and may reuse `shared` only after another barrier.
__device__ __forceinline__ float block_sum(float value, float* shared) {
  value = warp_sum(value);
  const uint32_t warps = (blockDim.x + warp_size - 1) / warp_size;
  if (threadIdx.x % warp_size == 0) shared[threadIdx.x / warp_size] = value;
  __syncthreads();
  float sum = 0;
  for (uint32_t i = 0; i < warps; ++i) sum += shared[i];
  return sum;
}

/// The live count of an operation, never more than its capacity.
__device__ __forceinline__ int32_t live(const int32_t* count, int32_t capacity) {
  return min(max(*count, 0), capacity);
}

}  // namespace troupe::gpu::cuda
