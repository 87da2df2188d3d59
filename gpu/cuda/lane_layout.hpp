#pragma once

#include "gpu/lane_view.hpp"

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

/// The most CTAs of a kernel that exchanges: each has a flag of its own on every peer.
inline constexpr int32_t lane_ctas_max = 128;

/// Times that a two-shot exchange meets its peers.
enum class lane_phase : int32_t { scattered, reduced };
inline constexpr int32_t num_lane_phases = 2;

/// Head of a lane's piece in device memory. The epoch is memory, not an argument: a replayed graph
/// advances it. Zeroed by `initialize_lane`.
struct lane_control {
  alignas(128) uint32_t epoch;     // owner only: rounds completed
  alignas(128) uint32_t arrivals;  // owner only: CTAs done with the round at hand
  alignas(128) uint32_t status;    // lane_status of the owner, sticky
  /// [phase][rank that writes][CTA] the last epoch that this CTA of that rank announced here.
  alignas(128) uint32_t flags[num_lane_phases][max_ranks][lane_ctas_max];
};
static_assert(sizeof(lane_control) <= lane_control_bytes);

/// Head of every slot: words {f32 payload, epoch}, one section per sending rank. Nothing else is
/// ever stored there, so that an epoch found in it is an epoch.
inline constexpr int64_t lane_word_bytes = 4 << 20;

/// The `slot_bytes` that a lane on this backend must have for f32 messages of `rows` x `width`.
constexpr int64_t lane_slot_bytes(int64_t rows, int64_t width) {
  const int64_t whole_groups = (rows + max_ranks - 1) / max_ranks * max_ranks;
  const int64_t message_bytes = whole_groups * width * static_cast<int64_t>(sizeof(float));
  return lane_word_bytes + (message_bytes + 255) / 256 * 256;
}

/// Makes this rank's piece of `lane` ready for its first round: control block and words of both
/// slots become zero. All ranks must have done so before any of them launches a collective, and
/// again before the first round after a failed one. Enqueued on `stream`. Throws gpu::error.
void initialize_lane(const lane_view& lane, cudaStream_t stream);

/// What the kernels of this rank left in `lane`. Waits for `stream`. Sticky: every round after a
/// failed one is skipped until `initialize_lane`. Throws gpu::error.
lane_status read_lane_status(const lane_view& lane, cudaStream_t stream);

}  // namespace troupe::gpu::cuda
