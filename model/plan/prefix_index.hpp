#pragma once

#include "model/plan/step_plan.hpp"
#include "model/plan/visual_layout.hpp"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace troupe::plan {

/// What a full KV block holds, as far as attention can tell; the prefix before it is another block.
struct block_content {
  std::span<const int32_t> tokens;   // [block_size]
  std::span<const visual_run> runs;  // in order
};

/// A published block in a chain of blocks. `entry` is never used twice: a link to a block that was
/// evicted since is recognised. The default value is the root, before the first block.
struct prefix_link {
  int32_t block = 0;
  uint64_t entry = 0;
  bool operator==(const prefix_link&) const = default;
};

/// Secret start of all hashes, so that nobody outside can make two prompts collide, and how many
/// bits of a hash are kept (tests keep few, to collide all the time).
struct prefix_hashing {
  uint64_t key = 0;
  int32_t bits = 128;
};
/// A key from the operating system's random source.
prefix_hashing random_prefix_hashing();

/// Finds the KV block that holds a given content behind a given prefix.
///
/// A hash only narrows the search: a hit compares tokens and visual runs, and the block before it
/// must be the very entry that was found for the prefix. Wrong hits are impossible, whatever
/// collides. Memory is taken once, except for the visual runs of blocks with more pictures than any
/// before.
class prefix_index {
 public:
  prefix_index(int32_t num_blocks, int32_t block_size, prefix_hashing hashing);

  /// Hash of a block behind the prefix with hash `prefix` (digest{} for the first block).
  digest hash(const digest& prefix, const block_content& content) const;

  /// The published block with this content behind `prefix`, if there is one.
  std::optional<prefix_link> find(prefix_link prefix, const digest& key,
                                  const block_content& content) const;

  /// Makes `block` findable. If an equal block already is, returns that one's link and `block`
  /// stays private. Empty if the prefix itself is no longer published: nobody could find the block.
  std::optional<prefix_link> publish(int32_t block, prefix_link prefix, const digest& key,
                                     const block_content& content);

  /// Nobody finds `block` any more. No effect on a private block.
  void withdraw(int32_t block);
  void clear();

  bool published(int32_t block) const { return entries_[index(block)].entry != 0; }
  int32_t block_size() const { return block_size_; }
  int32_t num_published() const { return num_published_; }

  /// Recounts the hash chains; the first contradiction, empty if none.
  std::string check() const;

 private:
  struct entry_state {
    uint64_t entry = 0;  // 0: private
    prefix_link prefix;
    digest key;
    int32_t next =
        0;  // in the chain of its hash bucket; 0 ends it, since block 0 is never published
    std::vector<visual_run> runs;
  };

  static size_t index(int32_t block) { return static_cast<size_t>(block); }
  bool alive(prefix_link link) const;
  bool holds(int32_t block, prefix_link prefix, const digest& key,
             const block_content& content) const;
  int32_t& head_of(const digest& key) { return heads_[key.low & (heads_.size() - 1)]; }
  int32_t head_of(const digest& key) const { return heads_[key.low & (heads_.size() - 1)]; }

  prefix_hashing hashing_;
  int32_t block_size_;
  std::vector<entry_state> entries_;  // [num_blocks]
  std::vector<int32_t> tokens_;       // [num_blocks, block_size]
  std::vector<int32_t> heads_;        // hash buckets, a power of two
  uint64_t last_entry_ = 0;
  int32_t num_published_ = 0;
};

}  // namespace troupe::plan
