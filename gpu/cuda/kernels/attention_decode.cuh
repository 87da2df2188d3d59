#pragma once

#include "gpu/cuda/kernels/attention_decode_attend.cuh"
#include "gpu/cuda/kernels/attention_decode_combine.cuh"
#include "gpu/cuda/kernels/attention_decode_copy.cuh"

#include <cstddef>
#include <cstdint>

/// Attention of sequences with few new tokens: memory-bound, so that every key and value is read
/// once and the reading never pauses. The keys of a sequence are split by its own length; CTAs take
/// splits from a counter; one warp of a CTA copies tiles of keys and values into a ring in shared
/// memory, across task borders, and four warps each attend to a quarter of every tile. The query
/// heads that share the keys are the rows of one product. The CTA that ends a sequence's last split
/// combines the splits, in order. Source: Dao et al. 2023 (Flash-Decoding).
namespace troupe::gpu::cuda::decode {

/// Per thread. As few as need no memory: other kernels' blocks may then share the multiprocessor.
constexpr int32_t registers_max(int32_t row_tiles) {
  return row_tiles == 1 ? 152 : 168;
}

/// `rotates`: the kernel norms and rotates the step's heads (parameters::heads) and writes their
/// keys and values to the cache; else another kernel has done that.
template <int32_t head_dim, int32_t num_stages, int32_t row_tiles, bool rotates>
__global__ void __maxnreg__(registers_max(row_tiles))
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
    consumer<head_dim, num_stages, row_tiles, rotates>{p, shared, warp, lane / 4, lane % 4}.run();
  } else if (warp < num_consumers + num_combiners) {
    combiner<head_dim, num_stages>{p, shared, warp - num_consumers, lane}.run();
  } else {
    producer<head_dim, num_stages, rotates>{p, shared, lane}.run();
  }
}

/// Shared memory of a CTA in a bucket of `max_sequences`.
template <int32_t head_dim, int32_t num_stages>
constexpr uint32_t shared_bytes(int32_t max_sequences) {
  return static_cast<uint32_t>(sizeof(shared_memory<head_dim, num_stages>)) +
         static_cast<uint32_t>(max_sequences) * 4;
}

}  // namespace troupe::gpu::cuda::decode
