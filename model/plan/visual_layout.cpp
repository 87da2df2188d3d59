#include "model/plan/visual_layout.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <map>
#include <utility>

namespace troupe::plan {

visual_layout::visual_layout(std::vector<visual_span> spans) : spans_(std::move(spans)) {
  int32_t covered = 0;
  first_ordinal_.reserve(spans_.size());
  for (const auto& span : spans_) {
    config::ensure(span.first_token >= covered && span.num_tokens > 0,
                   "visual span at token {} of {} tokens, expected at least 1 token at {} or later",
                   span.first_token, span.num_tokens, covered);
    covered = span.first_token + span.num_tokens;
    first_ordinal_.push_back(num_tokens_);
    num_tokens_ += span.num_tokens;
  }
}

int32_t visual_layout::end_token() const {
  return spans_.empty() ? 0 : spans_.back().first_token + spans_.back().num_tokens;
}

int64_t visual_layout::num_distinct_rows() const {
  std::map<media_digest, int64_t> rows_of_item;
  for (const auto& span : spans_) {
    auto& rows = rows_of_item[span.digest];
    rows = std::max(rows, int64_t{span.first_row} + span.num_tokens);
  }
  int64_t rows = 0;
  for (const auto& [item, count] : rows_of_item) rows += count;
  return rows;
}

size_t visual_layout::first_span_behind(int32_t token) const {
  const auto span = std::partition_point(spans_.begin(), spans_.end(), [&](const visual_span& s) {
    return s.first_token + s.num_tokens <= token;
  });
  return static_cast<size_t>(span - spans_.begin());
}

void visual_layout::fill_row_map(std::span<int32_t> row_map, int32_t first_token,
                                 std::span<const int32_t> pool_rows) const {
  std::fill(row_map.begin(), row_map.end(), -1);
  const int32_t end = first_token + static_cast<int32_t>(row_map.size());
  for (size_t i = first_span_behind(first_token); i < spans_.size(); ++i) {
    const auto& span = spans_[i];
    if (span.first_token >= end) break;
    config::ensure(pool_rows.size() == static_cast<size_t>(num_tokens_),
                   "{} pool rows for {} visual tokens", pool_rows.size(), num_tokens_);
    const int32_t from = std::max(first_token, span.first_token);
    const int32_t to = std::min(end, span.first_token + span.num_tokens);
    std::copy_n(pool_rows.begin() + first_ordinal_[i] + (from - span.first_token), to - from,
                row_map.begin() + (from - first_token));
  }
}

void visual_layout::collect_runs(int32_t first_token, int32_t num_tokens,
                                 std::vector<visual_run>& runs) const {
  runs.clear();
  const int32_t end = first_token + num_tokens;
  for (size_t i = first_span_behind(first_token); i < spans_.size(); ++i) {
    const auto& span = spans_[i];
    if (span.first_token >= end) break;
    const int32_t from = std::max(first_token, span.first_token);
    const int32_t to = std::min(end, span.first_token + span.num_tokens);
    runs.push_back({.block_offset = from - first_token,
                    .num_tokens = to - from,
                    .first_row = span.first_row + (from - span.first_token),
                    .grid_height = span.grid_height,
                    .grid_width = span.grid_width,
                    .digest = span.digest});
  }
}

}  // namespace troupe::plan
