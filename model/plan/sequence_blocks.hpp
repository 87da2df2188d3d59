#pragma once

#include "model/plan/block_pool.hpp"
#include "model/plan/visual_layout.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::plan {

/// The tokens of a sequence that the host knows, and its pictures: what its blocks are about.
struct sequence_content {
  std::span<const int32_t> tokens;
  const visual_layout& visual;
};

/// The KV blocks of one sequence, in order, and their place in the prefix cache. The pool must be
/// the same in all calls. Whoever drops it releases first: the destructor cannot reach the pool.
class sequence_blocks {
 public:
  /// Writes to `chain` the longest published chain of blocks that begins `content`, of at most
  /// `max_blocks`.
  void find_prefix(const block_pool& pool, const sequence_content& content, int32_t max_blocks,
                   std::vector<prefix_link>& chain);

  /// Hash of full block `block` behind all before it. Tokens never change, so it is computed once.
  const digest& key_of(const block_pool& pool, const sequence_content& content, int32_t block);

  /// Holds the blocks of `chain` as its first blocks. Only before it holds any.
  void adopt(block_pool& pool, std::span<const prefix_link> chain);

  /// Grows to `num_blocks`; false if the pool ran out (blocks taken so far are kept).
  bool grow(block_pool& pool, int32_t num_blocks);

  /// Publishes every full block of the first `computed_tokens`, whose keys and values are in
  /// memory.
  void publish(block_pool& pool, const sequence_content& content, int32_t computed_tokens);

  /// Takes all its blocks out of the prefix cache: their content is not to be trusted.
  void withdraw(block_pool& pool);

  /// Gives all blocks back, the last one first.
  void release(block_pool& pool);
  /// The pool was reset: holds nothing, without giving back.
  void forget();

  const std::vector<int32_t>& blocks() const { return blocks_; }
  int32_t size() const { return static_cast<int32_t>(blocks_.size()); }
  int32_t num_published() const { return static_cast<int32_t>(links_.size()); }

 private:
  /// Content of full block `block`; its runs live in `runs_` until the next call.
  block_content content_of(const block_pool& pool, const sequence_content& content, int32_t block);

  std::vector<int32_t> blocks_;
  std::vector<prefix_link>
      links_;                 // of the first blocks; an equal block of another may be the link
  std::vector<digest> keys_;  // of the first full blocks, held or not
  std::vector<visual_run> runs_;
};

}  // namespace troupe::plan
