#pragma once

#include "gpu/cuda/kernels/cluster.cuh"

#include <cooperative_groups.h>

#include <cstdint>

/// The order of a row's tokens, and how a cluster finds a place in it without sorting.
///
/// A cluster holds one row of logits: each CTA a slice, in its shared memory. Weights are
/// fixed-point numbers, so that their sums do not depend on the order of additions.
namespace troupe::gpu::cuda::sampling {

constexpr int32_t cluster_size = 8;
constexpr int32_t block_threads = 512;
constexpr int32_t block_warps = block_threads / warp_size;

/// A token's place in the order of its row, unique there: the higher, the better. The larger value
/// is better, among equals the lower id. Value in the upper 32 bits of 52, id below.
using standing = uint64_t;
constexpr int32_t id_bits = 20;
constexpr int32_t standing_bits = id_bits + 32;
constexpr uint32_t id_last = (1U << id_bits) - 1;

/// `value` is neither NaN nor -0.
__device__ __forceinline__ standing standing_of(float value, int32_t id) {
  const uint32_t bits = __float_as_uint(value);
  const uint32_t ordered =
      bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000U);
  return standing{ordered} << id_bits | (id_last - static_cast<uint32_t>(id));
}
__device__ __forceinline__ int32_t id_of(standing place) {
  return static_cast<int32_t>(id_last - (static_cast<uint32_t>(place) & id_last));
}
__device__ __forceinline__ float value_of(standing place) {
  const auto ordered = static_cast<uint32_t>(place >> id_bits);
  return __uint_as_float(ordered & 0x80000000U ? ordered ^ 0x80000000U : ~ordered);
}

/// A place in the order: whether a token is not behind it.
struct token_cut {
  float value = -INFINITY;
  int32_t id = INT32_MAX;

  __device__ bool keeps(float of_value, int32_t of_id) const {
    return of_value > value || (of_value == value && of_id <= id);
  }
};

/// Probabilities up to a factor: exp((value - peak) / temperature), in units of 2^-44. What is
/// below half a unit counts as nothing; a row of 2^18 such weights fits 64 bits.
struct distribution {
  float peak;
  float inverse_temperature;

  __device__ float relative(float value) const {
    constexpr float log2_e = 1.44269504F;
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;"
        : "=f"(result)
        : "f"((value - peak) * inverse_temperature * log2_e));
    return result;
  }
  __device__ uint64_t weight(float value) const {
    constexpr float units = 17592186044416.0F;  // 2^44
    return __float2ull_rn(relative(value) * units);
  }
};

/// This CTA's part of the row.
struct row_slice {
  float* values;  // shared memory
  int32_t first;  // id of the first value
  int32_t count;

  /// Calls function(value, id) for the calling thread's tokens.
  template <class Function>
  __device__ void each(Function function) const {
    for (auto i = static_cast<int32_t>(threadIdx.x); i < count; i += block_threads)
      function(values[i], first + i);
  }
};

constexpr int32_t num_bins = 2048;
constexpr int32_t members_max = 256;

/// Where a running sum over bins, best first, reaches what is asked for.
struct crossing {
  uint64_t remaining;  // what the bin has to hold
  uint32_t bin;
  uint32_t members;  // tokens in the bin
};

struct shared_state {
  cluster_reducer<cluster_size, block_warps> reducer;
  union {
    struct alignas(16) {
      uint32_t counts[num_bins];
      uint32_t low_masses[num_bins];  // halves: shared memory adds 32 bits natively
      uint32_t high_masses[num_bins];
    } bins;
    struct {  // of the cluster's first CTA alone
      standing places[members_max];
      uint64_t masses[members_max];
    } members;
  };
  uint32_t num_members;  // of the first CTA; 0 between gatherings
  uint64_t warp_sums[block_warps];
  crossing found;
  standing last;
  int32_t token;
  int32_t late_token_met;
};

/// Writes `value` to `*local` of every CTA of the cluster. One thread calls it.
template <class Value>
__device__ void broadcast(Value* local, const Value& value) {
  const auto cluster = cooperative_groups::this_cluster();
  for (uint32_t rank = 0; rank < cluster_size; ++rank)
    *cluster.map_shared_rank(local, rank) = value;
}

/// Collects the slices' tokens for which predicate(value, id) holds, at most `members_max` in the
/// cluster, in the first CTA, in no order. All threads of the cluster call it.
template <class Predicate>
__device__ void gather(shared_state& state, const row_slice& slice, Predicate predicate) {
  const auto cluster = cooperative_groups::this_cluster();
  uint32_t* counter = cluster.map_shared_rank(&state.num_members, 0);
  standing* places = cluster.map_shared_rank(&state.members.places[0], 0);
  slice.each([&](float value, int32_t id) {
    if (predicate(value, id)) places[atomicAdd(counter, 1U)] = standing_of(value, id);
  });
  cluster.sync();
}

/// Finds the token at which the best tokens together reach an amount: radix descent over bins, each
/// level within one bin of the level before, until few enough tokens are left to rank them one by
/// one.
///
/// The first level bins by distance from the peak, in steps of 1/64 (of a temperature, for
/// weights): it spreads real logits well. Further levels take the bits of the standing, so they end
/// for any row. All threads of the cluster call the public functions.
template <bool by_weight>
class descent {
 public:
  /// Among the tokens that `within` keeps.
  __device__ descent(shared_state& state, const row_slice& slice, const distribution& law,
                     const token_cut& within)
      : state_(state), slice_(slice), law_(law), within_(within) {}

  /// The last of the `count` best tokens; there are that many.
  __device__ token_cut last_of(int32_t count) {
    static_assert(!by_weight);
    return descend([&](uint64_t) { return static_cast<uint64_t>(count); });
  }
  /// The last of the best tokens that it takes to hold `share` < 1 of the weight.
  __device__ token_cut last_of_share(float share) {
    static_assert(by_weight);
    return descend([&](uint64_t total) {
      return __double2ull_ru(fmax(static_cast<double>(share) * static_cast<double>(total), 1.0));
    });
  }

 private:
  /// amount_of(total) is what the best tokens shall hold of what all hold.
  template <class Amount>
  __device__ token_cut descend(Amount amount_of) {
    const auto cluster = cooperative_groups::this_cluster();
    uint32_t members = 0;
    for (int32_t level = 0; level == 0 || members > members_max; ++level) {
      count_bins(level);
      cluster.sync();
      if (cluster.block_rank() == 0) find_crossing(level, amount_of);
      cluster.sync();
      members = state_.found.members;
      enter_bin(level, state_.found.bin);
    }
    gather(state_, slice_, [&](float value, int32_t id) { return inside(value, id); });
    if (cluster.block_rank() == 0) rank_members(members, state_.found.remaining);
    cluster.sync();
    return {value_of(state_.last), id_of(state_.last)};
  }

  /// Bits of the standing that a level sorts by: 11, 11, 10, 10, 10 from the top.
  __device__ static int32_t bits_of(int32_t level) { return level <= 2 ? 11 : 10; }

  __device__ uint32_t distance_bin(float value) const {
    constexpr float finite = 1e30F;  // however cold: 0 * infinity is no distance
    const float scale = by_weight ? 64 * fminf(law_.inverse_temperature, finite) : 64.0F;
    return static_cast<uint32_t>(fminf((law_.peak - value) * scale, num_bins - 1));
  }
  __device__ bool inside(float value, int32_t id) const {
    if (!within_.keeps(value, id)) return false;
    if (!entered_) return true;
    return distance_bin(value) == distance_bin_ &&
           standing_of(value, id) >> prefix_shift_ == prefix_;
  }
  __device__ uint32_t bin_of(int32_t level, float value, int32_t id) const {
    if (level == 0) return distance_bin(value);
    const uint32_t mask = (1U << bits_of(level)) - 1;
    const int32_t shift = prefix_shift_ - bits_of(level);
    return mask - (static_cast<uint32_t>(standing_of(value, id) >> shift) & mask);
  }
  __device__ void enter_bin(int32_t level, uint32_t bin) {
    entered_ = true;
    if (level == 0) {
      distance_bin_ = bin;
      return;
    }
    const uint32_t mask = (1U << bits_of(level)) - 1;
    prefix_shift_ -= bits_of(level);
    prefix_ = prefix_ << bits_of(level) | (mask - bin);
  }

  __device__ void count_bins(int32_t level) {
    auto& bins = state_.bins;
    for (auto i = static_cast<int32_t>(threadIdx.x); i < num_bins; i += block_threads) {
      bins.counts[i] = 0;
      if constexpr (by_weight) bins.low_masses[i] = bins.high_masses[i] = 0;
    }
    __syncthreads();
    slice_.each([&](float value, int32_t id) {
      if (!inside(value, id)) return;
      const uint64_t weight = by_weight ? law_.weight(value) : 1;
      if (weight == 0) return;
      const uint32_t bin = bin_of(level, value, id);
      atomicAdd(&bins.counts[bin], 1U);
      if constexpr (by_weight) add_mass(bin, weight);
    });
  }

  __device__ void add_mass(uint32_t bin, uint64_t weight) {
    const auto low = static_cast<uint32_t>(weight);
    const uint32_t sum = atomicAdd(&state_.bins.low_masses[bin], low) + low;
    const uint32_t high = static_cast<uint32_t>(weight >> 32) + static_cast<uint32_t>(sum < low);
    if (high != 0) atomicAdd(&state_.bins.high_masses[bin], high);
  }

  static constexpr int32_t stretch = num_bins / block_threads;
  struct alignas(sizeof(uint32_t) * stretch) bin_stretch {
    uint32_t values[stretch];
  };
  __device__ static bin_stretch load_stretch(const uint32_t* bins) {
    return *reinterpret_cast<const bin_stretch*>(bins + threadIdx.x * stretch);
  }

  /// The first CTA adds all CTAs' bins, a stretch of them per thread.
  template <class Amount>
  __device__ void find_crossing(int32_t level, Amount amount_of) {
    const auto cluster = cooperative_groups::this_cluster();
    uint64_t held[stretch] = {};
    uint32_t counts[stretch] = {};
#pragma unroll
    for (uint32_t rank = 0; rank < cluster_size; ++rank) {
      const auto* theirs = cluster.map_shared_rank(&state_.bins, rank);
      const bin_stretch count = load_stretch(theirs->counts);
      bin_stretch low{}, high{};
      if constexpr (by_weight) {
        low = load_stretch(theirs->low_masses);
        high = load_stretch(theirs->high_masses);
      }
#pragma unroll
      for (int32_t i = 0; i < stretch; ++i) {
        counts[i] += count.values[i];
        held[i] += by_weight ? uint64_t{high.values[i]} << 32 | low.values[i] : count.values[i];
      }
    }
    uint64_t own = 0;
#pragma unroll
    for (int32_t i = 0; i < stretch; ++i) own += held[i];
    uint64_t total = 0;
    uint64_t before = block_exclusive_sum(own, total);
    const uint64_t amount = level == 0 ? amount_of(total) : state_.found.remaining;
    __syncthreads();  // `found` was read
#pragma unroll
    for (int32_t i = 0; i < stretch; ++i) {
      if (before < amount && amount <= before + held[i])
        broadcast(&state_.found, {amount - before, threadIdx.x * stretch + i, counts[i]});
      before += held[i];
    }
  }

  __device__ uint64_t block_exclusive_sum(uint64_t own, uint64_t& total) {
    const uint64_t inclusive = warp_inclusive_sum(own);
    const int32_t warp = static_cast<int32_t>(threadIdx.x) / warp_size;
    if (threadIdx.x % warp_size == warp_size - 1) state_.warp_sums[warp] = inclusive;
    __syncthreads();
    uint64_t before = inclusive - own;
    for (int32_t i = 0; i < block_warps; ++i) {
      if (i < warp) before += state_.warp_sums[i];
      total += state_.warp_sums[i];
    }
    return before;
  }

  /// The first CTA: every member against every other.
  __device__ void rank_members(uint32_t count, uint64_t amount) {
    auto& members = state_.members;
    const uint32_t index = threadIdx.x;
    if (index == 0) state_.num_members = 0;
    if (index < count)
      members.masses[index] = by_weight ? law_.weight(value_of(members.places[index])) : 1;
    __syncthreads();
    if (index >= count) return;
    const standing own = members.places[index];
    uint64_t before = 0;
    for (uint32_t i = 0; i < count; ++i) before += members.places[i] > own ? members.masses[i] : 0;
    if (before < amount && amount <= before + members.masses[index]) broadcast(&state_.last, own);
  }

  shared_state& state_;
  const row_slice& slice_;
  const distribution law_;
  const token_cut within_;
  bool entered_ = false;
  uint32_t distance_bin_ = 0;
  standing prefix_ = 0;
  int32_t prefix_shift_ = standing_bits;
};

}  // namespace troupe::gpu::cuda::sampling
