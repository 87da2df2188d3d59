#include "model/plan/block_pool.hpp"

#include "config/ensure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace troupe::plan {

block_pool::block_pool(int32_t num_blocks, int32_t block_size, prefix_hashing hashing)
    : blocks_(index(num_blocks)), prefixes_(num_blocks, block_size, hashing) {
  config::ensure(num_blocks >= 2 && block_size >= 1,
                 "{} blocks of {} tokens, expected at least 2 of at least 1", num_blocks,
                 block_size);
  free_.reserve(index(num_blocks));
  reset();
}

void block_pool::reset() {
  std::fill(blocks_.begin(), blocks_.end(), block_state{});
  prefixes_.clear();
  num_cached_ = 0;
  free_.clear();
  to_clear_.clear();
  for (int32_t block = num_total(); block >= 1; --block) free_.push_back(block);
}

void block_pool::distrust() {
  auto distrusted = take_blocks_to_clear();
  for (int32_t block = 1; block <= num_total(); ++block)
    if (holders(block) > 0 || cached(block)) distrusted.push_back(block);
  reset();
  to_clear_ = std::move(distrusted);
}

std::optional<int32_t> block_pool::allocate() {
  if (free_.empty()) {
    const int32_t oldest = blocks_[0].next;
    if (oldest == 0) return std::nullopt;
    remove_cached(oldest);
    prefixes_.withdraw(oldest);
    free_.push_back(oldest);
  }
  const int32_t block = free_.back();
  free_.pop_back();
  blocks_[index(block)].holders = 1;
  return block;
}

void block_pool::share(int32_t block) {
  if (cached(block))
    remove_cached(block);
  else
    config::ensure(holders(block) > 0, "free block {} cannot be shared", block);
  ++blocks_[index(block)].holders;
}

void block_pool::release(int32_t block) {
  auto& state = blocks_[index(block)];
  config::ensure(state.holders > 0, "block {} released, but nobody holds it", block);
  if (--state.holders > 0) return;
  if (std::exchange(state.withdrawn, false)) to_clear_.push_back(block);
  if (prefixes_.published(block))
    append_cached(block);
  else
    free_.push_back(block);
}

std::optional<prefix_link> block_pool::publish(int32_t block, prefix_link prefix, const digest& key,
                                               const block_content& content) {
  config::ensure(holders(block) > 0, "block {} published, but nobody holds it", block);
  if (blocks_[index(block)].withdrawn) return std::nullopt;
  return prefixes_.publish(block, prefix, key, content);
}

void block_pool::withdraw(int32_t block) {
  config::ensure(holders(block) > 0, "block {} withdrawn, but nobody holds it", block);
  prefixes_.withdraw(block);
  blocks_[index(block)].withdrawn = true;
}

bool block_pool::cached(int32_t block) const {
  return holders(block) == 0 && prefixes_.published(block);
}

void block_pool::append_cached(int32_t block) {
  auto& end = blocks_[0];
  blocks_[index(block)].previous = end.previous;
  blocks_[index(block)].next = 0;
  blocks_[index(end.previous)].next = block;
  end.previous = block;
  ++num_cached_;
}

void block_pool::remove_cached(int32_t block) {
  auto& state = blocks_[index(block)];
  blocks_[index(state.previous)].next = state.next;
  blocks_[index(state.next)].previous = state.previous;
  state.previous = state.next = 0;
  --num_cached_;
}

std::string block_pool::check(const std::vector<int32_t>& holders_expected) const {
  std::vector<bool> seen(blocks_.size());
  for (const int32_t block : free_) {
    if (seen[index(block)]) return fmt::format("block {} is twice in the free list", block);
    seen[index(block)] = true;
    if (holders(block) != 0 || prefixes_.published(block))
      return fmt::format("block {} is free, but held or published", block);
  }
  int32_t cached_found = 0;
  for (int32_t block = blocks_[0].next; block != 0; block = blocks_[index(block)].next) {
    if (seen[index(block)])
      return fmt::format("block {} is twice in the lists of free and cached blocks", block);
    seen[index(block)] = true;
    if (!cached(block)) return fmt::format("block {} is in the cached list, but held", block);
    ++cached_found;
  }
  if (cached_found != num_cached_)
    return fmt::format("{} cached blocks, the list has {}", num_cached_, cached_found);
  for (int32_t block = 1; block <= num_total(); ++block) {
    if (holders(block) != holders_expected[index(block)])
      return fmt::format("block {} has {} holders, expected {}", block, holders(block),
                         holders_expected[index(block)]);
    if (seen[index(block)] == (holders(block) > 0))
      return fmt::format("block {} has {} holders and is {} the lists of free and cached blocks",
                         block, holders(block), seen[index(block)] ? "in" : "missing from");
  }
  return prefixes_.check();
}

}  // namespace troupe::plan
