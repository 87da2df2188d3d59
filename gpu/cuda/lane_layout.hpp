#pragma once

#include "gpu/lane_view.hpp"

#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cuda {

/// The most CTAs of a kernel that exchanges: each has a flag of its own on every peer.
inline constexpr int32_t lane_ctas_max = 128;

/// Times that a two-shot exchange meets its peers.
enum class lane_phase : int32_t { scattered, reduced };
inline constexpr int32_t num_lane_phases = 2;

/// Head of a lane's piece in device memory. The epoch is memory, not an argument: a replayed graph
/// advances it. Zero, like the words, when a group begins: after a failed round it begins
/// anew, with new memory.
struct lane_control {
  alignas(128) uint32_t epoch;     // owner only: rounds completed
  alignas(128) uint32_t arrivals;  // owner only: CTAs done with the round at hand
  alignas(128) uint32_t status;    // lane_status of the owner, sticky; copied to lane_view::status
  /// [phase][rank that writes][CTA] the last epoch that this CTA of that rank announced here.
  alignas(128) uint32_t flags[num_lane_phases][max_ranks][lane_ctas_max];
};
static_assert(sizeof(lane_control) <= lane_control_bytes);

// The first `lane_word_bytes` of every slot are words {f32 payload, epoch}, one section per sending rank.
// Nothing else is ever stored there, so that an epoch found in it is an epoch.

/// The `slot_bytes` that a lane on this backend must have for f32 messages of `rows` x `width`.
constexpr int64_t lane_slot_bytes(int64_t rows, int64_t width) {
  const int64_t whole_groups = (rows + max_ranks - 1) / max_ranks * max_ranks;
  const int64_t message_bytes = whole_groups * width * static_cast<int64_t>(sizeof(float));
  return lane_word_bytes + (message_bytes + 255) / 256 * 256;
}

}  // namespace troupe::gpu::cuda
