#pragma once

#include "gpu/operations.hpp"
#include "model/input_block.hpp"
#include "model/plan/step_plan.hpp"

namespace troupe::model {

/// Where a step finds its inputs: addresses that never move, equal for every bucket.
struct step_views {
  gpu::live_count tokens;
  gpu::live_count rows;
  gpu::live_count num_adjustments;
  gpu::tensor_view token_ids;     // [max_tokens] i32
  gpu::tensor_view positions;     // [3, max_tokens] i32
  gpu::tensor_view slot_mapping;  // [max_tokens] i32
  gpu::tensor_view row_map;       // [max_tokens] i32
  gpu::sequence_batch sequences;
  gpu::tensor_view logit_rows;   // [max_num_seqs] i32
  gpu::tensor_view sampling;     // [max_num_seqs * sizeof(plan::sampling_row)] u8
  gpu::tensor_view adjustments;  // [max_adjustments * sizeof(plan::logit_adjustment)] u8
};

/// The input arena of the text model and the way of a step plan into it.
class step_inputs {
 public:
  step_inputs(const plan::plan_limits& limits, gpu::operations& backend);

  /// Sends a plan without faults by one copy. The bucket's tokens past the live ones carry row -1
  /// and slot -1: not even a kernel that missed the live count could read the pool or write the
  /// cache for them.
  void load(gpu::operations& backend, const plan::step_plan& plan);

  const step_views& views() const { return views_; }
  const gpu::arena& arena() const { return block_.arena(); }
  gpu::arena& arena() { return block_.arena(); }

 private:
  void pack_tokens(const plan::step_plan& plan);
  void pack_sequences(const plan::step_plan& plan);
  void pack_rows(const plan::step_plan& plan);
  /// Bytes of the block table field from its start to the last live entry.
  int64_t table_bytes(const plan::step_plan& plan) const;

  int64_t max_tokens_;
  int64_t max_blocks_;  // row length of the block tables in the arena
  input_block block_;
  input_block::field counts_, token_ids_, positions_, slot_mapping_, row_map_, query_start_,
      context_lengths_, logit_rows_, sampling_, block_tables_, adjustments_;
  step_views views_;
};

/// The plan that warms the graph of a bucket: one token that reads the padding block and writes no
/// slot. One is enough, since every kernel is launched for the bucket whatever the live count says,
/// and it keeps the start short. (`faults` would reject it: it writes no cache.)
plan::step_plan warm_up_plan(const plan::plan_limits& limits, int32_t bucket_tokens);

}  // namespace troupe::model
