#include "model/plan/sequence_blocks.hpp"

#include "config/ensure.hpp"

namespace troupe::plan {

block_content sequence_blocks::content_of(const block_pool& pool, const sequence_content& content,
                                          int32_t block) {
  const int32_t size = pool.block_size();
  content.visual.collect_runs(block * size, size, runs_);
  return {.tokens = content.tokens.subspan(static_cast<size_t>(block) * static_cast<size_t>(size),
                                           static_cast<size_t>(size)),
          .runs = runs_};
}

const digest& sequence_blocks::key_of(const block_pool& pool, const sequence_content& content,
                                      int32_t block) {
  while (std::ssize(keys_) <= block) {
    const auto next = static_cast<int32_t>(keys_.size());
    const digest before = keys_.empty() ? digest{} : keys_.back();
    keys_.push_back(pool.prefixes().hash(before, content_of(pool, content, next)));
  }
  return keys_[static_cast<size_t>(block)];
}

void sequence_blocks::find_prefix(const block_pool& pool, const sequence_content& content,
                                  int32_t max_blocks, std::vector<prefix_link>& chain) {
  chain.clear();
  prefix_link last;
  for (int32_t block = 0; block < max_blocks; ++block) {
    const digest& key = key_of(pool, content, block);
    const auto found = pool.prefixes().find(last, key, content_of(pool, content, block));
    if (!found) return;
    chain.push_back(*found);
    last = *found;
  }
}

void sequence_blocks::adopt(block_pool& pool, std::span<const prefix_link> chain) {
  config::ensure(blocks_.empty(), "prefix adopted by a sequence that holds {} blocks",
                 blocks_.size());
  links_.assign(chain.begin(), chain.end());
  for (const auto& link : chain) {
    pool.share(link.block);
    blocks_.push_back(link.block);
  }
}

bool sequence_blocks::grow(block_pool& pool, int32_t num_blocks) {
  while (size() < num_blocks) {
    const auto block = pool.allocate();
    if (!block) return false;
    blocks_.push_back(*block);
  }
  return true;
}

void sequence_blocks::publish(block_pool& pool, const sequence_content& content,
                              int32_t computed_tokens) {
  while ((num_published() + 1) * pool.block_size() <= computed_tokens) {
    const int32_t block = num_published();
    const prefix_link before = links_.empty() ? prefix_link{} : links_.back();
    const digest& key = key_of(pool, content, block);
    const auto link = pool.publish(blocks_[static_cast<size_t>(block)], before, key,
                                   content_of(pool, content, block));
    if (!link) return;
    links_.push_back(*link);
  }
}

void sequence_blocks::withdraw(block_pool& pool) {
  for (const int32_t block : blocks_) pool.withdraw(block);
}

void sequence_blocks::release(block_pool& pool) {
  for (auto block = blocks_.rbegin(); block != blocks_.rend(); ++block) pool.release(*block);
  forget();
}

void sequence_blocks::forget() {
  blocks_.clear();
  links_.clear();
}

}  // namespace troupe::plan
