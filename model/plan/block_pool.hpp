#pragma once

#include "model/plan/prefix_index.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace troupe::plan {

/// Who holds which KV block. Block 0 is never handed out: padding of plans and tables points there.
///
///            allocate                 release, private
///   free ───────────────► held ─────────────────────────► free
///     ▲      share ▲        │ release, published
///     │            └── cached ◄─┘      (content kept, nobody holds it)
///     └──── evicted by allocate, least recently used first
///
/// Sequences release their last block first, so that a prefix outlives what follows it.
class block_pool {
 public:
  block_pool(int32_t num_blocks, int32_t block_size, prefix_hashing hashing);

  /// A block that the caller now holds, evicting the least recently used cached block if none is
  /// free.
  std::optional<int32_t> allocate();
  /// One more holder of a held or cached block.
  void share(int32_t block);
  /// One holder less.
  void release(int32_t block);

  const prefix_index& prefixes() const { return prefixes_; }
  /// Makes a held block findable: see prefix_index::publish.
  std::optional<prefix_link> publish(int32_t block, prefix_link prefix, const digest& key,
                                     const block_content& content);
  /// Takes a held block's content out of the prefix cache for good (it may be wrong). It is not
  /// published again, and goes to `take_blocks_to_clear` with its last holder.
  void withdraw(int32_t block);
  /// Withdrawn blocks that became free since the last call: whoever runs the next step zeroes them
  /// first.
  std::vector<int32_t> take_blocks_to_clear() { return std::exchange(to_clear_, {}); }
  /// Everything is free and nothing is published: the memory behind the blocks is new.
  void reset();
  /// The same, but the memory is the old one: whatever anybody held or could find goes to
  /// `take_blocks_to_clear`.
  void distrust();

  int32_t block_size() const { return prefixes_.block_size(); }
  int32_t num_total() const { return static_cast<int32_t>(blocks_.size()) - 1; }
  int32_t num_free() const { return static_cast<int32_t>(free_.size()); }
  int32_t num_cached() const { return num_cached_; }
  int32_t num_held() const { return num_total() - num_free() - num_cached_; }
  /// Blocks that `allocate` can hand out.
  int32_t num_available() const { return num_free() + num_cached_; }

  int32_t holders(int32_t block) const { return blocks_[index(block)].holders; }

  /// Compares `holders_expected` [num_blocks] with what it counted, and recounts its lists; the
  /// first contradiction, empty if none.
  std::string check(const std::vector<int32_t>& holders_expected) const;

 private:
  /// Cached blocks form a list from the least to the most recently used, closed by block 0.
  struct block_state {
    int32_t holders = 0;
    int32_t previous = 0;
    int32_t next = 0;
    bool withdrawn = false;  // its content is not to be trusted
  };

  static size_t index(int32_t block) { return static_cast<size_t>(block); }
  bool cached(int32_t block) const;
  void append_cached(int32_t block);
  void remove_cached(int32_t block);

  std::vector<block_state> blocks_;  // [num_blocks]
  std::vector<int32_t> free_;        // a stack
  std::vector<int32_t> to_clear_;
  int32_t num_cached_ = 0;
  prefix_index prefixes_;
};

}  // namespace troupe::plan
