#pragma once

#include "gpu/tensor_view.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

namespace troupe::gpu {

/// Where an arena's bytes come from.
enum class memory_kind : uint8_t {
  host,         // private pages of this process
  host_shared,  // an anonymous file that other processes map by descriptor
  device,       // CUDA virtual memory of one process (only in builds with CUDA)
  device_shared,  // the same, mapped by other processes and devices by descriptor
};

constexpr bool on_device(memory_kind kind) {
  return kind == memory_kind::device || kind == memory_kind::device_shared;
}
constexpr bool shareable(memory_kind kind) {
  return kind == memory_kind::host_shared || kind == memory_kind::device_shared;
}

/// One line of the ledger: who owns which bytes of an arena.
struct ledger_entry {
  std::string owner;  // "kv_cache", "hidden_states", ...
  int64_t offset_bytes = 0;
  int64_t bytes = 0;
};

class arena;

/// Proof that an arena of one generation is alive and at its address. A graph holds a lease on every
/// arena it baked; so the memory outlives the graph. Copyable; cheap.
class arena_lease {
 public:
  uint64_t generation() const;
  const std::string& name() const;
  /// Whether [address, address + bytes) lies inside this arena.
  bool contains(const void* address, int64_t bytes) const;
  /// Bytes from the start of the arena to `address`, which must lie inside.
  int64_t offset_of(const void* address) const;
  /// False once the arena was retired (its pages may be unmapped: do not touch them).
  bool current() const;

 private:
  friend class arena;
  struct state;
  std::shared_ptr<state> state_;
};

/// Memory of a fixed size at a fixed address, laid out once. First `reserve` every tensor, then
/// `seal`, then use. There is no resize: a larger layout is a new arena with a new generation.
///
/// All reservations are 64-byte aligned (256 on devices). Sealing maps zeroed pages (huge ones where the
/// kernel has them) and touches them all, so that no later page fault can fail, and counts as an
/// allocation (gpu/counters.hpp).
class arena {
 public:
  /// `name` appears in the ledger and in messages.
  arena(std::string name, memory_kind kind);
  ~arena();
  arena(arena&&) noexcept;
  arena& operator=(arena&&) noexcept;

  /// Reserves space for a dense tensor of `shape` and returns its index for `view`. Only before
  /// `seal`.
  int32_t reserve(std::string owner, dtype type, std::initializer_list<int64_t> shape);

  /// Maps the memory. Throws gpu::error naming the arena, its bytes and the reason.
  void seal();
  /// Maps memory that another arena of the same layout sealed, here or in another process
  /// (shared kinds only). The descriptor is duplicated; a file of another size is refused.
  void seal(int file_descriptor);

  tensor_view view(int32_t reservation) const;  // only after `seal`
  arena_lease lease() const;
  uint64_t generation() const;
  int64_t bytes() const;  // before `seal`: what sealing would take
  std::byte* base() const;
  int file_descriptor() const;  // shared kinds only, else -1; owned by the arena
  const std::vector<ledger_entry>& ledger() const;

  /// Maps memory that another arena of the same layout sealed in the place of this one's (shared kinds
  /// only): the address, size and generation stay, the old memory is let go. Nothing may use it meanwhile,
  /// on a device neither: it must be idle.
  ///
  /// Leases stay current, and graphs valid, because all that they rely on stays as it was: a graph baked
  /// addresses, which are the same; a lease promises that they lie in mapped memory of this layout, which
  /// they do; and what the memory held when a graph was captured is nothing that it could have baked. So
  /// this is for memory whose contents mean something between one replay and the next only to whoever
  /// replaces it, such as the lanes of a group that begins anew.
  ///
  /// Throws gpu::error; then the arena is retired, since its address may lead nowhere: replays are refused.
  void replace(int file_descriptor);

  /// Zeroes all of it. Nothing may use it meanwhile.
  void clear();

  /// Ends this generation: leases report `current() == false` and replays of graphs that baked it
  /// are refused. With `guard` any touch of the pages faults from now on (tests); they are unmapped when
  /// the last lease goes.
  void retire(bool guard = false);

 private:
  struct layout;
  std::unique_ptr<layout> layout_;
};

}  // namespace troupe::gpu
