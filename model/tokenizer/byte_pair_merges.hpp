#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace troupe::model {

/// The merge rules of a byte-level BPE, and their application to one word.
///
/// A word starts as one token per byte. The adjacent pair whose rule has the lowest rank (the
/// leftmost of equals) is replaced by its merged token until no adjacent pair has a rule. Source:
/// Sennrich et al. 2016; the order of ties and of pairs that a merge creates is that of Hugging
/// Face tokenizers.
class byte_pair_merges {
 public:
  /// `byte_ids`: the token of each byte. `num_merges`: how many `add` calls will follow.
  byte_pair_merges(const std::array<int32_t, 256>& byte_ids, size_t num_merges);

  /// Adds the rule of the next rank. Returns false, and does nothing, if the pair has one already.
  bool add(int32_t left_id, int32_t right_id, int32_t merged_id);

  /// Appends the tokens of `word`, at most `word_bytes_max` long. O(n log n), constant stack.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

  static constexpr size_t word_bytes_max = UINT32_MAX - 1;

 private:
  /// The rank of the pair's rule, `no_rank` without one.
  uint32_t rank_of(int32_t left_id, int32_t right_id) const;
  /// The slot that holds `pair`, or the free one where it belongs.
  size_t slot_index(uint64_t pair) const;
  void encode_short(std::string_view word, std::vector<int32_t>& ids) const;
  void encode_long(std::string_view word, std::vector<int32_t>& ids) const;

  static constexpr uint32_t no_rank = UINT32_MAX;
  struct slot {
    uint64_t pair = 0;  // left id in the upper half
    uint32_t rank = no_rank;
  };

  std::array<int32_t, 256> byte_ids_;
  std::vector<slot> slots_;  // open addressing; the size is a power of two, at most half used
  std::vector<int32_t> merged_ids_;  // by rank
};

}  // namespace troupe::model
