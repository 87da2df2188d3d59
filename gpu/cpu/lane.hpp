#pragma once

#include "gpu/lane_view.hpp"
#include "gpu/tensor_view.hpp"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace troupe::gpu::cpu {

/// Head of a lane's piece on every rank. `ready` is the last epoch whose data lies in this rank's slot;
/// it is the only word that peers wait on. The epoch is memory, not an argument: a replayed graph
/// advances it.
struct lane_control {
  alignas(64) std::atomic<uint32_t> epoch;    // owner only: rounds begun
  alignas(64) std::atomic<uint32_t> ready;    // written by the owner, read by peers
  std::atomic<uint32_t> waiters;              // peers asleep on `ready`
};

static_assert(sizeof(lane_control) <= lane_control_bytes);
static_assert(std::atomic<uint32_t>::is_always_lock_free);

inline lane_control& control_of(std::byte* piece) {
  return *reinterpret_cast<lane_control*>(piece);
}

/// Every rank's part of one round, in rank order: `rows * width` dense values each. Valid until this
/// rank's second next round on the lane. After a failed wait the pointers still lead to mapped memory,
/// so that a graph can run to its end; what they hold is meaningless.
struct lane_round {
  lane_status status = lane_status::ok;
  std::array<const std::byte*, max_ranks> parts{};
};

/// One round of the lane: publishes the first `rows` rows of `part` and waits until every peer published
/// theirs, at most the lane's timeout. Once a round failed, later rounds fail at once until the status is
/// taken. With one rank the part itself is returned, so it must be dense.
///
/// Two slots that alternate suffice: a rank writes slot e & 1 for epoch e + 2 only after its wait of
/// epoch e + 1, which a peer reaches only when it has read epoch e.
lane_round exchange(const lane_view& lane, const tensor_view& part, int64_t rows);

}  // namespace troupe::gpu::cpu
