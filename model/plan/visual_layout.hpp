#pragma once

#include "model/plan/prompt.hpp"

#include <cstdint>
#include <span>
#include <vector>

namespace troupe::plan {

/// The part of one visual span that lies in a KV block: what attention saw there beside token ids.
/// Equal runs at equal places come from equal pixels.
struct visual_run {
  int32_t block_offset = 0;  // first visual token, counted inside the block
  int32_t num_tokens = 0;
  int32_t first_row = 0;  // of the item's visual rows
  int32_t grid_height = 0;
  int32_t grid_width = 0;
  media_digest digest{};
  bool operator==(const visual_run&) const = default;
};
static_assert(sizeof(visual_run) == 5 * 4 + 32);  // hashed as bytes: no padding

/// Where a request's visual tokens are, by absolute token index. Every question is asked for a
/// range of the request's tokens, never for "the picture": a chunk or a cached prefix may cut a
/// span anywhere.
class visual_layout {
 public:
  visual_layout() = default;
  /// `spans` in token order, disjoint, not empty.
  explicit visual_layout(std::vector<visual_span> spans);

  /// Visual tokens in all, one row each.
  int32_t num_tokens() const { return num_tokens_; }
  /// One past the last visual token; 0 if there is none.
  int32_t end_token() const;
  /// Pool rows that all items occupy, an item that comes twice counted once.
  int64_t num_distinct_rows() const;

  /// Writes to row_map[i] the pool row of token first_token + i, or -1. `pool_rows` holds one row
  /// for each visual token of the request; it may be empty if the range has none.
  void fill_row_map(std::span<int32_t> row_map, int32_t first_token,
                    std::span<const int32_t> pool_rows) const;

  /// Replaces `runs` by the runs of the range, in order.
  void collect_runs(int32_t first_token, int32_t num_tokens, std::vector<visual_run>& runs) const;

  const std::vector<visual_span>& spans() const { return spans_; }

 private:
  /// Index of the first span that ends behind `token`.
  size_t first_span_behind(int32_t token) const;

  std::vector<visual_span> spans_;
  std::vector<int32_t> first_ordinal_;  // visual tokens before each span
  int32_t num_tokens_ = 0;
};

}  // namespace troupe::plan
