#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace troupe::gpu {

/// The most ranks that share one node's symmetric arena.
inline constexpr int32_t max_ranks = 8;

/// Bytes before the first slot of a piece, whatever the backend keeps there.
inline constexpr int64_t lane_control_bytes = 16384;

/// On devices every slot begins with this many bytes of flagged words, for messages short enough to carry
/// their flags along.
inline constexpr int64_t lane_word_bytes = 4 << 20;

/// What a collective kernel needs to know of a lane: one exclusive piece of the symmetric arena, at
/// the same offset on every rank, already mapped everywhere. Built by transport/; a graph family has
/// one lane of its own, so that two graphs can never meet on one buffer.
///
/// Memory of each rank's piece: a control block (epoch, flags, status) of `lane_control_bytes`, then two
/// data slots that alternate by epoch parity, `slot_bytes` each.
struct lane_view {
  int32_t rank = 0;
  int32_t size = 1;                                // ranks; 1 means every collective is a no-op
  std::array<std::byte*, max_ranks> pieces{};      // [rank] this lane's piece in that rank's arena
  int64_t slot_bytes = 0;
  int64_t piece_bytes = 0;
  int64_t timeout_ns = 0;                          // a peer later than this is reported, never awaited
  const uint32_t* abort_word = nullptr;            // non-zero: leave every wait at once
  uint32_t* status = nullptr;                      // lane_status of this rank: where the host reads it
  uint32_t* arrivals = nullptr;                    // host word that all ranks' hosts share, zero at first
  uint32_t* own_arrivals = nullptr;                // this rank's share of them
};

/// Outcome of the waits inside a replay, written by the kernels to the lane's `status`.
enum class lane_status : uint32_t { ok = 0, peer_late = 1, aborted = 2 };

}  // namespace troupe::gpu
