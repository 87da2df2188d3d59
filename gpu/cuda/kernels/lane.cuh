#pragma once

#include "gpu/cuda/lane_layout.hpp"

#include <cuda_runtime.h>

#include <cstdint>

/// The device side of a lane: one round of one collective kernel, seen from a thread.
///
/// Two ways to move data. Words carry an epoch beside each value: the receiver needs no flag and no
/// fence, at the price of twice the bytes. Plain data is announced by a flag per CTA, after a
/// fence. Ordering between devices rests on 8-byte single-copy words, and on release and acquire of
/// flags at system scope.
///
/// Two slots that alternate suffice: a rank stores into slot e & 1 for round e + 2 only after its
/// whole kernel of round e + 1, which met every peer's kernel of round e + 1, before which that
/// peer's kernel of round e was complete. Hence every round that counts must meet every peer.
namespace troupe::gpu::cuda {

/// Polls between two looks at the clock and the abort word, which lies across the bus.
constexpr uint32_t polls_per_check = 256;

__device__ __forceinline__ uint64_t global_time_ns() {
  uint64_t now;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(now));
  return now;
}
__device__ __forceinline__ uint32_t load_relaxed(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ __forceinline__ uint32_t load_acquire(const uint32_t* address) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(address) : "memory");
  return value;
}
__device__ __forceinline__ void store_release(uint32_t* address, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(address), "r"(value) : "memory");
}

/// Two neighbouring words.
struct word_pair {
  uint64_t first;
  uint64_t second;
};
__device__ __forceinline__ uint64_t word_of(float payload, uint32_t epoch) {
  return uint64_t{epoch} << 32 | __float_as_uint(payload);
}
__device__ __forceinline__ uint32_t epoch_of(uint64_t word) {
  return static_cast<uint32_t>(word >> 32);
}
__device__ __forceinline__ float payload_of(uint64_t word) {
  return __uint_as_float(static_cast<uint32_t>(word));
}
__device__ __forceinline__ void store_words(uint64_t* address, word_pair words) {
  asm volatile("st.relaxed.sys.global.v2.b64 [%0], {%1, %2};" ::"l"(address), "l"(words.first),
               "l"(words.second)
               : "memory");
}
__device__ __forceinline__ word_pair load_words(const uint64_t* address) {
  word_pair words;
  asm volatile("ld.relaxed.sys.global.v2.b64 {%0, %1}, [%2];"
               : "=l"(words.first), "=l"(words.second)
               : "l"(address)
               : "memory");
  return words;
}
__device__ __forceinline__ void store_word(uint64_t* address, uint64_t word) {
  asm volatile("st.relaxed.sys.global.b64 [%0], %1;" ::"l"(address), "l"(word) : "memory");
}
__device__ __forceinline__ uint64_t load_word(const uint64_t* address) {
  uint64_t word;
  asm volatile("ld.relaxed.sys.global.b64 %0, [%1];" : "=l"(word) : "l"(address) : "memory");
  return word;
}

/// One round. Made by every thread of the grid after `wait_for_predecessor`; ended by `complete`.
class lane_round {
 public:
  __device__ explicit lane_round(const lane_view& lane)
      : lane_(lane), own_(control_of(lane.rank)), epoch_(successor(own_->epoch)) {}

  /// False, for the whole CTA, once a round of this lane failed: then the CTA leaves at once,
  /// without `complete`. All threads call it.
  __device__ bool usable() const {
    return __syncthreads_and(load_relaxed(&own_->status) ==
                             static_cast<uint32_t>(lane_status::ok)) != 0;
  }
  __device__ int32_t rank() const { return lane_.rank; }
  __device__ int32_t size() const { return lane_.size; }

  /// Where `sender`'s words lie in the memory of `owner`.
  __device__ uint64_t* words(int32_t owner, int32_t sender) const {
    return reinterpret_cast<uint64_t*>(slot(owner)) + sender * words_per_sender(lane_.size);
  }
  /// Plain data in the memory of `owner`.
  __device__ std::byte* data(int32_t owner) const { return slot(owner) + lane_word_bytes; }

  __host__ __device__ static int64_t words_per_sender(int32_t size) {
    constexpr int64_t line = 16;  // words in 128 bytes
    return lane_word_bytes / static_cast<int64_t>(sizeof(uint64_t)) / size / line * line;
  }

  /// Sends `count` values to every peer, in pairs or a single one: pair i goes to pair `place + i *
  /// step` of this rank's section, a single value to word `place`.
  template <int32_t count>
  __device__ void send(const float (&values)[count], int64_t place, int64_t step) const {
    for (int32_t peer = 0; peer < lane_.size; ++peer) {
      if (peer == lane_.rank) continue;
      uint64_t* target = words(peer, lane_.rank);
      if constexpr (count == 1) {
        store_word(target + place, word_of(values[0], epoch_));
      } else {
#pragma unroll
        for (int32_t i = 0; i < count; i += 2)
          store_words(target + 2 * (place + i / 2 * step),
                      {word_of(values[i], epoch_), word_of(values[i + 1], epoch_)});
      }
    }
  }

  /// Takes what `peer` sent to the same place, once it is there.
  template <int32_t count>
  __device__ void receive(float (&values)[count], int32_t peer, int64_t place, int64_t step) {
    const uint64_t* source = words(lane_.rank, peer);
    if constexpr (count == 1) {
      uint64_t word;
      do word = load_word(source + place);
      while (epoch_of(word) != epoch_ && keep_waiting());
      values[0] = payload_of(word);
    } else {
      word_pair pairs[count / 2];
      bool complete;
      do {
        complete = true;
#pragma unroll
        for (int32_t i = 0; i < count / 2; ++i) {
          pairs[i] = load_words(source + 2 * (place + i * step));
          complete &= epoch_of(pairs[i].first) == epoch_ && epoch_of(pairs[i].second) == epoch_;
        }
      } while (!complete && keep_waiting());
#pragma unroll
      for (int32_t i = 0; i < count / 2; ++i) {
        values[2 * i] = payload_of(pairs[i].first);
        values[2 * i + 1] = payload_of(pairs[i].second);
      }
    }
  }

  /// All threads of the CTA: what they stored before becomes visible to the CTA of the same index
  /// on every peer, and what those stored before the same phase becomes visible here.
  __device__ void meet_peers(lane_phase phase) {
    __syncthreads();
    const auto peer = static_cast<int32_t>(threadIdx.x);
    if (peer < lane_.size && peer != lane_.rank) {
      __threadfence_system();
      store_release(flag(peer, phase, lane_.rank), epoch_);
      const uint32_t* theirs = flag(lane_.rank, phase, peer);
      while (static_cast<int32_t>(load_acquire(theirs) - epoch_) < 0 && keep_waiting()) {
      }
    }
    __syncthreads();
  }

  /// All threads of every CTA of the grid, last.
  __device__ void complete() const {
    __syncthreads();
    if (threadIdx.x != 0) return;
    const uint32_t last = gridDim.x - 1;
    if (atomicInc(&own_->arrivals, last) == last) own_->epoch = epoch_;
  }

 private:
  /// Never 0, which fresh memory holds; the parity alternates all the same.
  __device__ static uint32_t successor(uint32_t epoch) {
    return epoch == 0xffffffffU ? 2 : epoch + 1;
  }
  __device__ lane_control* control_of(int32_t rank) const {
    return reinterpret_cast<lane_control*>(lane_.pieces[rank]);
  }
  __device__ std::byte* slot(int32_t owner) const {
    return lane_.pieces[owner] + lane_control_bytes + (epoch_ & 1) * lane_.slot_bytes;
  }
  __device__ uint32_t* flag(int32_t owner, lane_phase phase, int32_t sender) const {
    return &control_of(owner)->flags[static_cast<int32_t>(phase)][sender][blockIdx.x];
  }

  /// After a poll that found nothing. False once this rank gave up: the thread then goes on with
  /// whatever lies in memory, so that the kernel ends normally.
  __device__ bool keep_waiting() {
    if (failed_) return false;
    if (++polls_ % polls_per_check != 0) return true;
    const uint64_t now = global_time_ns();
    if (deadline_ns_ == 0) deadline_ns_ = now + static_cast<uint64_t>(lane_.timeout_ns);
    lane_status verdict = static_cast<lane_status>(load_relaxed(&own_->status));
    if (lane_.abort_word != nullptr && load_relaxed(lane_.abort_word) != 0)
      verdict = lane_status::aborted;
    else if (now >= deadline_ns_)
      verdict = lane_status::peer_late;
    if (verdict == lane_status::ok) return true;
    const auto ok = static_cast<uint32_t>(lane_status::ok);
    if (atomicCAS(&own_->status, ok, static_cast<uint32_t>(verdict)) == ok)
      atomicExch_system(lane_.status, static_cast<uint32_t>(verdict));
    failed_ = true;
    return false;
  }

  const lane_view& lane_;
  lane_control* own_;
  uint32_t epoch_;
  bool failed_ = false;
  uint32_t polls_ = 0;
  uint64_t deadline_ns_ = 0;
};

}  // namespace troupe::gpu::cuda
