#pragma once

#include "model/plan/sampling_row.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::plan {

/// 128-bit digest; equality is what it is for.
struct digest {
  uint64_t low = 0;
  uint64_t high = 0;
  bool operator==(const digest&) const = default;
};

/// One complete step for every rank of a group: what to compute, where to read and write. Shards do
/// not decide: they run exactly this or refuse it. Sizes are live sizes; the bucket pads them.
/// There is no optional part: "no picture in this step" is a row map full of -1.
struct step_plan {
  uint64_t epoch = 0;         // incarnation of the group; a plan of another epoch has no effect
  uint64_t step = 0;          // counts from 1 within the epoch, without gaps
  int32_t bucket_tokens = 0;  // the graph: one per token bucket

  std::vector<int32_t> token_ids;     // [tokens] id, or -1 - r: the token row r of step - 1 sampled
  std::vector<int32_t> positions;     // [3 * tokens] t row, h row, w row
  std::vector<int32_t> slot_mapping;  // [tokens] block * block_size + offset
  std::vector<int32_t> row_map;       // [tokens] visual pool row or -1

  std::vector<int32_t> query_start;      // [sequences + 1]
  std::vector<int32_t> context_lengths;  // [sequences] keys visible to the last token
  std::vector<int32_t> block_tables;     // [sequences * max_blocks_per_sequence], padded with 0
  int32_t max_blocks_per_sequence = 0;   // row length above: enough for this step, not the engine's
                                         // constant, so that short contexts make small plans

  std::vector<int32_t> logit_rows;            // [rows] token of this step whose logits are sampled
  std::vector<sampling_row> sampling;         // [rows]
  std::vector<logit_adjustment> adjustments;  // sorted by row

  std::vector<int32_t> cleared_blocks;  // zeroed before anything runs: what their last holder left
                                        // in them is not to be trusted, not even multiplied by 0

  digest content;  // of everything above: compute_digest

  int32_t num_tokens() const { return static_cast<int32_t>(token_ids.size()); }
  int32_t num_sequences() const { return static_cast<int32_t>(context_lengths.size()); }
  int32_t num_rows() const { return static_cast<int32_t>(logit_rows.size()); }
};

digest compute_digest(const step_plan& plan);

/// Alternatives of one sampled token, best first.
struct token_logprobs {
  float sampled = 0;
  std::vector<int32_t> top_tokens;
  std::vector<float> top_values;
  bool operator==(const token_logprobs&) const = default;
};

/// What one rank reports of a step. All ranks of a group must report equal `content`, `tokens`.
struct step_result {
  uint64_t epoch = 0;
  uint64_t step = 0;
  digest content;                        // of the plan that ran
  std::vector<int32_t> tokens;           // [rows]; -1: the row's logits were not finite
  std::vector<token_logprobs> logprobs;  // [rows], empty entries for rows that asked for none
  int64_t elapsed_ns = 0;                // of the replay
};

/// Sizes that plans must respect; derived once from engine_config and model_config and equal on
/// scheduler and shards.
struct plan_limits {
  int32_t max_num_seqs = 0;
  int32_t max_num_batched_tokens = 0;
  int32_t max_blocks_per_sequence = 0;  // the longest block table row of any plan
  int32_t block_size = 0;
  int32_t num_blocks = 0;  // of the KV pool; block 0 is never handed out (padding writes nowhere)
  int32_t visual_pool_rows = 0;
  int32_t max_adjustments = 0;
  int32_t vocab_size = 0;
  int64_t max_model_len = 0;
  std::vector<int32_t> token_buckets;  // ascending; the last is max_num_batched_tokens

  /// The smallest bucket that holds `tokens`.
  int32_t bucket_for(int32_t tokens) const;
};

/// The token buckets for a largest step: 1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, ... up to
/// `largest`.
std::vector<int32_t> make_token_buckets(int32_t largest);

/// Every way in which `plan` breaks `limits` or contradicts itself (lengths that do not match, ids
/// or rows out of range, blocks out of range, digest that is not the content's): empty if it can
/// run. A shard refuses a plan with faults. Never throws.
std::vector<std::string> faults(const step_plan& plan, const plan_limits& limits);

}  // namespace troupe::plan
