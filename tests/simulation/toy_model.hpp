#pragma once

#include "model/plan/prompt.hpp"
#include "model/plan/sampling_params.hpp"
#include "model/plan/step_plan.hpp"

#include <cstdint>
#include <span>
#include <vector>

/// A model made of hashes, for tests of whatever plans steps. It has no weights, but it depends on
/// everything a real one depends on: the value a token leaves in the KV pool is a hash of its id or
/// visual row, its three positions and every value before it as read through the block table. One
/// wrong block, stale slot, wrong row or wrong position changes every token that follows.
namespace troupe::simulation {

using hash_value = uint64_t;

/// One hash from two; not commutative.
hash_value mix(hash_value a, hash_value b);

/// What the pool row of visual row `row` of an item holds.
hash_value visual_row_value(const plan::media_digest& digest, int32_t row);

/// Rows of the visual pool as a shard reads them.
using visual_pool_values = std::vector<hash_value>;

/// Samples a failure: the logits of this request's token at this place are not finite.
struct broken_logits {
  uint64_t seed = 0;
  int64_t position = 0;
};

/// Executes plans against a KV pool of its own, exactly as they are written. Ends the process if a
/// block that a broken sequence left behind is begun anew without having been cleared.
class toy_shard {
 public:
  explicit toy_shard(const plan::plan_limits& limits);

  plan::step_result run(const plan::step_plan& plan, const visual_pool_values& pool,
                        std::span<const broken_logits> broken);

 private:
  void run_sequence(const plan::step_plan& plan, size_t sequence, const visual_pool_values& pool,
                    std::vector<hash_value>& hidden);

  plan::plan_limits limits_;
  void clear_blocks(const plan::step_plan& plan);
  void poison_blocks(const plan::step_plan& plan, int32_t row);

  std::vector<hash_value> kv_;    // [num_blocks * block_size]
  std::vector<bool> poisoned_;    // [num_blocks] touched by a sequence whose logits were broken
  std::vector<int32_t> sampled_;  // of the step before
  std::vector<int32_t> resolved_ids_;
};

/// How a request ends, and with which tokens, if it runs alone and nothing disturbs it.
struct solo_run {
  std::vector<int32_t> tokens;
  bool stopped = false;  // by a stop token; else by max_tokens or broken logits
  bool broken = false;
};

/// Runs a request without plans, blocks, chunks or planner: what `toy_shard` must reproduce.
solo_run run_alone(const plan::prompt& prompt, const plan::sampling_params& sampling,
                   std::span<const int32_t> end_token_ids, int32_t vocab_size,
                   std::span<const broken_logits> broken);

}  // namespace troupe::simulation
