#pragma once

#include "gpu/arena.hpp"
#include "gpu/lane_view.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// Bytes between ranks and nodes: memory that all ranks of a node map before anything is captured,
/// and the lanes cut from it. Knows no model and no actor.
namespace troupe::transport {

/// A lane asked for at start: one per graph family ("text", ...). `slot_bytes` is the largest message.
struct lane_request {
  std::string name;
  int64_t slot_bytes = 0;
};

/// Where the memory of a group lies: on the host, or rank r's on CUDA device devices[r].
struct group_placement {
  gpu::memory_kind kind = gpu::memory_kind::host_shared;
  std::vector<int32_t> devices;  // [ranks] for device_shared
};

/// The memory of all ranks of one tensor-parallel group, made by the node before its shards start:
/// one shareable piece per rank, equal sizes and offsets, and a page of control words on the host that the
/// node writes (abort) and reads (outcomes). Threads map it in place; a process gets the descriptors.
class symmetric_memory {
 public:
  /// Throws transport::error if the files cannot be made.
  symmetric_memory(int32_t num_ranks, std::vector<lane_request> lanes, group_placement placement = {});
  ~symmetric_memory();
  symmetric_memory(symmetric_memory&&) noexcept;
  symmetric_memory& operator=(symmetric_memory&&) noexcept;

  int32_t num_ranks() const;
  const std::vector<lane_request>& lanes() const;
  /// One per rank, then that of the control words; owned here.
  const std::vector<int>& file_descriptors() const;
  int64_t bytes_per_rank() const;

  /// Tells every rank to leave its waits at once (a rank died). Sticky until the memory is replaced.
  void abort();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

/// One rank's mapping of every rank's memory, for the whole life of a shard: of one group after another.
class symmetric_arena {
 public:
  /// Maps `file_descriptors` (as the memory gives them; duplicated, so the caller keeps its own), memory
  /// on devices for the calling thread's current device. `lanes` and `kind` must equal what the memory was
  /// made with. Throws transport::error.
  symmetric_arena(int32_t rank, const std::vector<int>& file_descriptors,
                  const std::vector<lane_request>& lanes, std::chrono::milliseconds timeout,
                  gpu::memory_kind kind = gpu::memory_kind::host_shared);
  ~symmetric_arena();
  symmetric_arena(const symmetric_arena&) = delete;
  symmetric_arena& operator=(const symmetric_arena&) = delete;

  /// The lane of that name. Each lane has one owner: a second call for the same name is a broken
  /// invariant.
  gpu::lane_view take_lane(const std::string& name);

  /// Status the kernels of `lane` left behind since the last call, and resets it to ok. (On devices a
  /// lane that failed skips every later round: its group begins anew, with new memory.)
  gpu::lane_status take_status(const gpu::lane_view& lane);

  /// Maps the memory of a new group, made with the same lanes and kind for as many ranks, in the place of
  /// the old: all pieces and the control words, at their addresses. Lanes that were taken stay taken, and
  /// graphs that baked them valid (gpu::arena::replace says why). Nothing of the old group is left: epochs,
  /// words, flags, statuses and arrivals begin at zero, as they do for every rank of the new group. Peers
  /// that still use the old memory meet nobody there.
  ///
  /// Nothing of this rank may be in flight. Throws transport::error; then every graph that baked the arena
  /// is refused from now on.
  void replace_memory(const std::vector<int>& file_descriptors);

  /// Leases covering the mapped pieces, for manifests.
  std::vector<gpu::arena_lease> leases() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::transport
