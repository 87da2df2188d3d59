#pragma once

#include "gpu/cuda/kernels/numeric.cuh"

#include <cooperative_groups.h>

#include <cstdint>
#include <cstring>

/// Reductions over a cluster: CTAs that run together and write each other's shared memory.
namespace troupe::gpu::cuda {

/// `value` of the lane whose number differs in the bits of `mask`; any trivial type of whole words.
template <class Value>
__device__ __forceinline__ Value exchange_xor(const Value& value, int32_t mask) {
  static_assert(sizeof(Value) % sizeof(uint32_t) == 0);
  constexpr int32_t count = sizeof(Value) / sizeof(uint32_t);
  uint32_t words[count];
  memcpy(words, &value, sizeof(Value));
#pragma unroll
  for (int32_t i = 0; i < count; ++i) words[i] = __shfl_xor_sync(all_lanes, words[i], mask);
  Value other;
  memcpy(&other, words, sizeof(Value));
  return other;
}

/// Shared memory of a CTA for reductions over the cluster. Every CTA holds one at the same address.
template <int32_t cluster_size, int32_t warps>
class cluster_reducer {
 public:
  /// combine(a, b) over all threads of the cluster, the same bits everywhere; `combine` is
  /// commutative and takes the values in a fixed order. All threads of the cluster call it. What
  /// they wrote before, here or to other CTAs, is visible to all afterwards. `turn` counts the
  /// calls.
  template <class Value, class Combine>
  __device__ Value reduce(Value value, int32_t turn, Combine combine) {
    static_assert(sizeof(Value) <= value_bytes);
    const auto cluster = cooperative_groups::this_cluster();
#pragma unroll
    for (int32_t mask = warp_size / 2; mask > 0; mask /= 2)
      value = combine(value, exchange_xor(value, mask));
    auto* of_warps = reinterpret_cast<Value*>(warp_values_[turn % 2]);
    if (threadIdx.x % warp_size == 0) of_warps[threadIdx.x / warp_size] = value;
    __syncthreads();
    if (threadIdx.x < cluster_size) {
      value = of_warps[0];
      for (int32_t i = 1; i < warps; ++i) value = combine(value, of_warps[i]);
      auto* mail = reinterpret_cast<Value*>(mail_[turn % 2]);
      cluster.map_shared_rank(mail, threadIdx.x)[cluster.block_rank()] = value;
    }
    cluster.sync();
    const auto* mail = reinterpret_cast<const Value*>(mail_[turn % 2]);
    value = mail[0];
    for (int32_t i = 1; i < cluster_size; ++i) value = combine(value, mail[i]);
    return value;
  }

  /// After a `reduce` of that turn: what the CTA of this rank gave.
  template <class Value>
  __device__ Value share_of(int32_t rank, int32_t turn) const {
    return reinterpret_cast<const Value*>(mail_[turn % 2])[rank];
  }

 private:
  static constexpr int32_t value_bytes = 16;
  alignas(16) char warp_values_[2][warps * value_bytes];
  alignas(16) char mail_[2][cluster_size *
                            value_bytes];  // alternate: a late reader meets no new values
};

}  // namespace troupe::gpu::cuda
