#include "model/plan/step_plan.hpp"

#include "config/ensure.hpp"
#include "model/plan/hash.hpp"

#include <algorithm>
#include <array>
#include <span>

namespace troupe::plan {
namespace {

template <class T>
void add(hash_stream& stream, const std::vector<T>& values) {
  stream.add(std::span<const T>(values));
}

// Rows and adjustments are hashed as bytes: they must not hide padding.
static_assert(sizeof(sampling_row) == 3 * 4 + 4 + 3 * 4 + 4 + 8 + 8 + 4 + 4);
static_assert(sizeof(logit_adjustment) == 5 * 4);

}  // namespace

digest compute_digest(const step_plan& plan) {
  // All lengths come before the first array, so that no two plans share a byte stream.
  const std::array<uint64_t, 15> sizes = {plan.epoch,
                                          plan.step,
                                          static_cast<uint64_t>(plan.bucket_tokens),
                                          static_cast<uint64_t>(plan.max_blocks_per_sequence),
                                          plan.token_ids.size(),
                                          plan.positions.size(),
                                          plan.slot_mapping.size(),
                                          plan.row_map.size(),
                                          plan.query_start.size(),
                                          plan.context_lengths.size(),
                                          plan.block_tables.size(),
                                          plan.logit_rows.size(),
                                          plan.sampling.size(),
                                          plan.adjustments.size(),
                                          plan.cleared_blocks.size()};
  hash_stream stream;
  stream.add(std::span<const uint64_t>(sizes));
  add(stream, plan.token_ids);
  add(stream, plan.positions);
  add(stream, plan.slot_mapping);
  add(stream, plan.row_map);
  add(stream, plan.query_start);
  add(stream, plan.context_lengths);
  add(stream, plan.block_tables);
  add(stream, plan.logit_rows);
  add(stream, plan.sampling);
  add(stream, plan.adjustments);
  add(stream, plan.cleared_blocks);
  return stream.finish();
}

int32_t plan_limits::bucket_for(int32_t tokens) const {
  const auto bucket = std::lower_bound(token_buckets.begin(), token_buckets.end(), tokens);
  config::ensure(bucket != token_buckets.end(), "no bucket holds {} tokens, the largest holds {}",
                 tokens, token_buckets.empty() ? 0 : token_buckets.back());
  return *bucket;
}

std::vector<int32_t> make_token_buckets(int32_t largest) {
  config::ensure(largest >= 1, "largest step has {} tokens, expected at least 1", largest);
  std::vector<int32_t> buckets;
  // Powers of two; from 16 on halfway points between them, so that padding stays under a third;
  // from 256 on, where arithmetic takes the time, quarters: under a fifth.
  constexpr int64_t first_halfway = 16, first_quarter = 256;
  for (int64_t size = 1; size < largest; size *= 2) {
    const int64_t parts = size >= first_quarter ? 4 : size >= first_halfway ? 2 : 1;
    for (int64_t part = 0; part < parts && size + part * size / parts < largest; ++part)
      buckets.push_back(static_cast<int32_t>(size + part * size / parts));
  }
  buckets.push_back(largest);
  return buckets;
}

}  // namespace troupe::plan
