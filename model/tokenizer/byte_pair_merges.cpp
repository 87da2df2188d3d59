#include "model/tokenizer/byte_pair_merges.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <queue>
#include <unordered_map>

namespace troupe::model {
namespace {

// Up to this length looking at all pairs again after each merge is faster than keeping them sorted.
constexpr size_t short_word_bytes = 64;
constexpr uint32_t no_rank = UINT32_MAX;

uint64_t pair_key(int32_t left_id, int32_t right_id) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left_id)) << 32) |
         static_cast<uint32_t>(right_id);
}

size_t hash_pair(uint64_t pair) {
  // Fibonacci hashing; the upper bits are the mixed ones. Source: Knuth, vol. 3, 6.4.
  return (pair * 0x9E3779B97F4A7C15u) >> 32;
}

/// The pairs that may still be merged, lowest rank first and leftmost of equals: one list of
/// positions per rank. Words that are long have few ranks and many positions, so a list in order is
/// both smaller and faster than a heap over all of them.
class merge_queue {
 public:
  struct candidate {
    uint32_t rank;
    uint32_t position;
  };

  void push(candidate entry) {
    auto& list = lists_[entry.rank];
    if (list.empty()) ranks_.push(entry.rank);
    list.push(entry.position);
  }

  std::optional<candidate> pop() {
    if (ranks_.empty()) return std::nullopt;
    const uint32_t rank = ranks_.top();
    auto& list = lists_[rank];
    const candidate entry{rank, list.pop()};
    if (list.empty()) ranks_.pop();
    return entry;
  }

 private:
  /// Positions in ascending order; nearly always they also come in ascending order.
  class position_list {
   public:
    bool empty() const { return next_ == positions_.size(); }

    void push(uint32_t position) {
      if (empty()) {
        positions_.clear();
        next_ = 0;
      }
      sorted_ = sorted_ && (empty() || positions_.back() < position);
      positions_.push_back(position);
    }

    uint32_t pop() {
      if (!sorted_) std::sort(positions_.begin() + static_cast<ptrdiff_t>(next_), positions_.end());
      sorted_ = true;
      return positions_[next_++];
    }

   private:
    std::vector<uint32_t> positions_;
    size_t next_ = 0;
    bool sorted_ = true;
  };

  std::unordered_map<uint32_t, position_list> lists_;
  std::priority_queue<uint32_t, std::vector<uint32_t>, std::greater<>> ranks_;
};

/// The tokens of a long word while they are being merged: a list linked through positions, where a
/// token keeps the position of its first byte and a position that was merged away has no id.
class token_list {
 public:
  static constexpr uint32_t none = UINT32_MAX;

  token_list(std::string_view word, const std::array<int32_t, 256>& byte_ids) {
    nodes_.reserve(word.size());
    for (const char byte : word) {
      const auto position = static_cast<uint32_t>(nodes_.size());
      nodes_.push_back({byte_ids[static_cast<uint8_t>(byte)], position - 1, position + 1});
    }
    nodes_.back().next = none;
  }

  int32_t id(uint32_t position) const { return nodes_[position].id; }
  bool merged_away(uint32_t position) const { return nodes_[position].id == no_id; }
  uint32_t previous(uint32_t position) const { return nodes_[position].previous; }
  uint32_t next(uint32_t position) const { return nodes_[position].next; }

  /// Replaces the token at `position` and the one after it by `merged_id`.
  void merge_with_next(uint32_t position, int32_t merged_id) {
    node& left = nodes_[position];
    node& right = nodes_[left.next];
    left.id = merged_id;
    left.next = right.next;
    right.id = no_id;
    if (left.next != none) nodes_[left.next].previous = position;
  }

 private:
  static constexpr int32_t no_id = -1;
  struct node {
    int32_t id;
    uint32_t previous;  // none for the first: 0 - 1
    uint32_t next;
  };
  std::vector<node> nodes_;
};

}  // namespace

byte_pair_merges::byte_pair_merges(const std::array<int32_t, 256>& byte_ids, size_t num_merges)
    : byte_ids_(byte_ids), slots_(std::bit_ceil(2 * num_merges + 1)) {}

size_t byte_pair_merges::slot_index(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t index = hash_pair(pair) & mask;
  while (slots_[index].used && slots_[index].pair != pair) index = (index + 1) & mask;
  return index;
}

std::optional<merge> byte_pair_merges::find(int32_t left_id, int32_t right_id) const {
  const slot& found = slots_[slot_index(pair_key(left_id, right_id))];
  if (!found.used) return std::nullopt;
  return found.result;
}

bool byte_pair_merges::add(int32_t left_id, int32_t right_id, int32_t merged_id) {
  config::ensure(2 * (size_t{num_merges_} + 1) <= slots_.size(), "{} merge rules in {} slots",
                 num_merges_ + 1, slots_.size());
  const uint64_t pair = pair_key(left_id, right_id);
  slot& place = slots_[slot_index(pair)];
  if (place.used) return false;
  place = {pair, {num_merges_++, merged_id}, true};
  return true;
}

void byte_pair_merges::encode(std::string_view word, std::vector<int32_t>& ids) const {
  config::ensure(word.size() <= word_bytes_max, "word of {} bytes, expected at most {}",
                 word.size(), word_bytes_max);
  if (word.size() <= short_word_bytes) {
    encode_short(word, ids);
  } else {
    encode_long(word, ids);
  }
}

void byte_pair_merges::encode_short(std::string_view word, std::vector<int32_t>& ids) const {
  std::array<int32_t, short_word_bytes> tokens;
  std::array<merge, short_word_bytes> merges;  // of token i with token i + 1
  size_t count = word.size();
  const auto look_up = [&](size_t i) {
    const auto found = i + 1 < count ? find(tokens[i], tokens[i + 1]) : std::nullopt;
    merges[i] = found.value_or(merge{no_rank, 0});
  };
  for (size_t i = 0; i < count; ++i) tokens[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  for (size_t i = 0; i < count; ++i) look_up(i);
  while (count > 1) {
    const auto best = std::min_element(
        merges.begin(), merges.begin() + count - 1,
        [](const merge& left, const merge& right) { return left.rank < right.rank; });
    if (best->rank == no_rank) break;
    const auto i = static_cast<size_t>(best - merges.begin());
    tokens[i] = best->merged_id;
    std::copy(tokens.begin() + i + 2, tokens.begin() + count, tokens.begin() + i + 1);
    std::copy(merges.begin() + i + 2, merges.begin() + count, merges.begin() + i + 1);
    --count;
    look_up(i);
    if (i > 0) look_up(i - 1);
  }
  ids.insert(ids.end(), tokens.begin(), tokens.begin() + count);
}

void byte_pair_merges::encode_long(std::string_view word, std::vector<int32_t>& ids) const {
  token_list tokens(word, byte_ids_);
  merge_queue queue;
  const auto offer = [&](uint32_t position) {
    if (position == token_list::none || tokens.next(position) == token_list::none) return;
    const auto found = find(tokens.id(position), tokens.id(tokens.next(position)));
    if (found) queue.push({found->rank, position});
  };
  for (uint32_t position = 0; position < word.size(); ++position) offer(position);
  while (const auto entry = queue.pop()) {
    const uint32_t position = entry->position;
    // A candidate is stale when one of its tokens has been merged since it was queued.
    if (tokens.merged_away(position) || tokens.next(position) == token_list::none) continue;
    const auto found = find(tokens.id(position), tokens.id(tokens.next(position)));
    if (!found || found->rank != entry->rank) continue;
    tokens.merge_with_next(position, found->merged_id);
    offer(position);
    offer(tokens.previous(position));
  }
  for (uint32_t position = 0; position != token_list::none; position = tokens.next(position))
    ids.push_back(tokens.id(position));
}

}  // namespace troupe::model
