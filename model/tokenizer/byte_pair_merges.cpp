#include "model/tokenizer/byte_pair_merges.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <optional>
#include <queue>
#include <unordered_map>

namespace troupe::model {
namespace {

// Up to this length looking at all pairs again after each merge is faster than keeping them sorted.
constexpr size_t short_word_bytes = 64;

uint64_t pair_key(int32_t left_id, int32_t right_id) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left_id)) << 32) |
         static_cast<uint32_t>(right_id);
}

size_t hash_pair(uint64_t pair) {
  // Fibonacci hashing; the upper bits are the mixed ones. Source: Knuth, vol. 3, 6.4.
  return (pair * 0x9E3779B97F4A7C15u) >> 32;
}

/// The pairs that may still be merged, lowest rank first and leftmost of equals: one list of
/// positions per rank. Long words have few ranks and many positions, so a list in order is both
/// smaller and faster than a heap over all of them.
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
  /// Positions that come out in ascending order. Nearly always they go in so, too.
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

/// A token of a long word while it is being merged. Tokens are linked through their positions,
/// which are those of their first bytes.
struct linked_token {
  int32_t id;
  uint32_t previous;
  uint32_t next;
  uint32_t rank;  // of the pair with the next token; no_rank for a token that was merged away
};

constexpr uint32_t no_position = UINT32_MAX;

std::vector<linked_token> link_bytes(std::string_view word,
                                     const std::array<int32_t, 256>& byte_ids) {
  std::vector<linked_token> tokens;
  tokens.reserve(word.size());
  for (const char byte : word) {
    const auto position = static_cast<uint32_t>(tokens.size());
    tokens.push_back({byte_ids[static_cast<uint8_t>(byte)], position - 1, position + 1, 0});
  }
  static_assert(uint32_t{0} - 1 == no_position, "the first token has none before it");
  tokens.back().next = no_position;
  return tokens;
}

}  // namespace

byte_pair_merges::byte_pair_merges(const std::array<int32_t, 256>& byte_ids, size_t num_merges)
    : byte_ids_(byte_ids), slots_(std::bit_ceil(2 * num_merges + 1)) {
  merged_ids_.reserve(num_merges);
}

size_t byte_pair_merges::slot_index(uint64_t pair) const {
  const size_t mask = slots_.size() - 1;
  size_t index = hash_pair(pair) & mask;
  while (slots_[index].rank != no_rank && slots_[index].pair != pair) index = (index + 1) & mask;
  return index;
}

uint32_t byte_pair_merges::rank_of(int32_t left_id, int32_t right_id) const {
  return slots_[slot_index(pair_key(left_id, right_id))].rank;
}

bool byte_pair_merges::add(int32_t left_id, int32_t right_id, int32_t merged_id) {
  config::ensure(2 * (merged_ids_.size() + 1) <= slots_.size(), "{} merge rules in {} slots",
                 merged_ids_.size() + 1, slots_.size());
  const uint64_t pair = pair_key(left_id, right_id);
  slot& place = slots_[slot_index(pair)];
  if (place.rank != no_rank) return false;
  place = {pair, static_cast<uint32_t>(merged_ids_.size())};
  merged_ids_.push_back(merged_id);
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
  std::array<uint32_t, short_word_bytes> ranks;  // of the pair of token i with token i + 1
  size_t count = word.size();
  const auto rank_pair = [&](size_t i) {
    ranks[i] = i + 1 < count ? rank_of(tokens[i], tokens[i + 1]) : no_rank;
  };
  for (size_t i = 0; i < count; ++i) tokens[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  for (size_t i = 0; i < count; ++i) rank_pair(i);
  while (count > 1) {
    const auto best = std::min_element(ranks.begin(), ranks.begin() + count);
    if (*best == no_rank) break;
    const auto i = static_cast<size_t>(best - ranks.begin());
    tokens[i] = merged_ids_[*best];
    std::copy(tokens.begin() + i + 2, tokens.begin() + count, tokens.begin() + i + 1);
    std::copy(ranks.begin() + i + 2, ranks.begin() + count, ranks.begin() + i + 1);
    --count;
    rank_pair(i);
    if (i > 0) rank_pair(i - 1);
  }
  ids.insert(ids.end(), tokens.begin(), tokens.begin() + count);
}

void byte_pair_merges::encode_long(std::string_view word, std::vector<int32_t>& ids) const {
  auto tokens = link_bytes(word, byte_ids_);
  merge_queue queue;
  const auto rank_pair = [&](uint32_t position) {
    auto& token = tokens[position];
    token.rank = token.next == no_position ? no_rank : rank_of(token.id, tokens[token.next].id);
    if (token.rank != no_rank) queue.push({token.rank, position});
  };
  for (uint32_t position = 0; position < tokens.size(); ++position) rank_pair(position);
  while (const auto entry = queue.pop()) {
    auto& left = tokens[entry->position];
    if (left.rank != entry->rank) continue;  // one of the two was merged since
    auto& right = tokens[left.next];
    left.id = merged_ids_[entry->rank];
    left.next = right.next;
    right.rank = no_rank;
    if (left.next != no_position) tokens[left.next].previous = entry->position;
    rank_pair(entry->position);
    if (left.previous != no_position) rank_pair(left.previous);
  }
  for (uint32_t position = 0; position != no_position; position = tokens[position].next)
    ids.push_back(tokens[position].id);
}

}  // namespace troupe::model
