#include "model/plan/prefix_index.hpp"

#include "config/ensure.hpp"
#include "model/plan/hash.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <random>

namespace troupe::plan {
namespace {

digest keep_bits(digest value, int32_t bits) {
  if (bits < 64) return {.low = value.low & ((uint64_t{1} << bits) - 1), .high = 0};
  if (bits < 128) value.high &= (uint64_t{1} << (bits - 64)) - 1;
  return value;
}

}  // namespace

prefix_hashing random_prefix_hashing() {
  std::random_device source;
  return {.key = (uint64_t{source()} << 32) | source()};
}

prefix_index::prefix_index(int32_t num_blocks, int32_t block_size, prefix_hashing hashing)
    : hashing_(hashing),
      block_size_(block_size),
      entries_(index(num_blocks)),
      tokens_(index(num_blocks) * index(block_size)),
      heads_(std::bit_ceil(index(num_blocks))) {}

digest prefix_index::hash(const digest& prefix, const block_content& content) const {
  hash_stream stream(hashing_.key);
  stream.add(std::span(&prefix, 1));
  stream.add(content.tokens);
  stream.add(content.runs);
  return keep_bits(stream.finish(), hashing_.bits);
}

bool prefix_index::alive(prefix_link link) const {
  return link == prefix_link{} || entries_[index(link.block)].entry == link.entry;
}

bool prefix_index::holds(int32_t block, prefix_link prefix, const digest& key,
                         const block_content& content) const {
  const auto& entry = entries_[index(block)];
  return entry.key == key && entry.prefix == prefix &&
         std::ranges::equal(entry.runs, content.runs) &&
         std::equal(content.tokens.begin(), content.tokens.end(),
                    tokens_.begin() + int64_t{block} * block_size_);
}

std::optional<prefix_link> prefix_index::find(prefix_link prefix, const digest& key,
                                              const block_content& content) const {
  for (int32_t block = head_of(key); block != 0; block = entries_[index(block)].next)
    if (holds(block, prefix, key, content))
      return prefix_link{.block = block, .entry = entries_[index(block)].entry};
  return std::nullopt;
}

std::optional<prefix_link> prefix_index::publish(int32_t block, prefix_link prefix,
                                                 const digest& key, const block_content& content) {
  config::ensure(block > 0 && index(block) < entries_.size() && !published(block),
                 "block {} cannot be published", block);
  config::ensure(std::ssize(content.tokens) == block_size_, "block of {} tokens, expected {}",
                 content.tokens.size(), block_size_);
  if (!alive(prefix)) return std::nullopt;
  if (const auto equal = find(prefix, key, content)) return equal;

  auto& entry = entries_[index(block)];
  entry.entry = ++last_entry_;
  entry.prefix = prefix;
  entry.key = key;
  entry.next = head_of(key);
  entry.runs.assign(content.runs.begin(), content.runs.end());
  std::ranges::copy(content.tokens, tokens_.begin() + int64_t{block} * block_size_);
  head_of(key) = block;
  ++num_published_;
  return prefix_link{.block = block, .entry = entry.entry};
}

void prefix_index::withdraw(int32_t block) {
  if (!published(block)) return;
  auto& entry = entries_[index(block)];
  int32_t* link = &head_of(entry.key);
  while (*link != block) link = &entries_[index(*link)].next;
  *link = entry.next;
  entry.entry = 0;
  entry.next = 0;
  --num_published_;
}

void prefix_index::clear() {
  for (auto& entry : entries_) {
    entry.entry = 0;
    entry.next = 0;
  }
  std::fill(heads_.begin(), heads_.end(), 0);
  num_published_ = 0;
}

std::string prefix_index::check() const {
  int32_t reachable = 0;
  for (size_t bucket = 0; bucket < heads_.size(); ++bucket) {
    for (int32_t block = heads_[bucket]; block != 0; block = entries_[index(block)].next) {
      const auto& entry = entries_[index(block)];
      if (entry.entry == 0) return fmt::format("private block {} is in a hash chain", block);
      if ((entry.key.low & (heads_.size() - 1)) != bucket)
        return fmt::format("block {} is in hash chain {}, which is not its key's", block, bucket);
      if (++reachable > num_published_)
        return fmt::format("hash chains hold more than {} published blocks", num_published_);
    }
  }
  const auto entries = std::ranges::count_if(entries_, [](const auto& e) { return e.entry != 0; });
  if (reachable != num_published_ || entries != num_published_)
    return fmt::format("{} published blocks, {} reachable, {} entries", num_published_, reachable,
                       entries);
  return {};
}

}  // namespace troupe::plan
