#include "model/step_inputs.hpp"

#include <algorithm>

namespace troupe::model {
namespace {

/// Places of the live counts inside the field `counts`.
enum count_index : int32_t {
  count_tokens,
  count_sequences,
  count_rows,
  count_adjustments,
  num_counts
};

/// Copies `live` to `field` and fills up to `padded` entries with `filler`.
void pack(int32_t* field, const std::vector<int32_t>& live, int32_t padded, int32_t filler) {
  int32_t* end = std::copy(live.begin(), live.end(), field);
  std::fill(end, std::max(end, field + padded), filler);
}

template <class T>
int64_t bytes_of(const std::vector<T>& values) {
  return static_cast<int64_t>(values.size() * sizeof(T));
}

}  // namespace

step_inputs::step_inputs(const plan::plan_limits& limits, gpu::operations& backend)
    : max_tokens_(limits.max_num_batched_tokens),
      max_blocks_(limits.max_blocks_per_sequence),
      block_("input", backend.memory()) {
  using enum gpu::dtype;
  const int64_t sequences = limits.max_num_seqs;
  counts_ = block_.reserve("counts", i32, {num_counts});
  token_ids_ = block_.reserve("token_ids", i32, {max_tokens_});
  positions_ = block_.reserve("positions", i32, {3, max_tokens_});
  slot_mapping_ = block_.reserve("slot_mapping", i32, {max_tokens_});
  row_map_ = block_.reserve("row_map", i32, {max_tokens_});
  query_start_ = block_.reserve("query_start", i32, {sequences + 1});
  context_lengths_ = block_.reserve("context_lengths", i32, {sequences});
  logit_rows_ = block_.reserve("logit_rows", i32, {sequences});
  sampling_ = block_.reserve("sampling", u8, {sequences * int64_t{sizeof(plan::sampling_row)}});
  // Last, because a copy ends with the last live entry: tables are wide and mostly empty, and most
  // steps have no adjustment at all.
  block_tables_ = block_.reserve("block_tables", i32, {sequences, limits.max_blocks_per_sequence});
  adjustments_ = block_.reserve("adjustments", u8,
                                {limits.max_adjustments * int64_t{sizeof(plan::logit_adjustment)}});
  block_.seal(backend);

  const int32_t* counts = block_.device(counts_).as<int32_t>();
  views_.tokens.value = counts + count_tokens;
  views_.rows.value = counts + count_rows;
  views_.num_adjustments.value = counts + count_adjustments;
  views_.token_ids = block_.device(token_ids_);
  views_.positions = block_.device(positions_);
  views_.slot_mapping = block_.device(slot_mapping_);
  views_.row_map = block_.device(row_map_);
  views_.sequences.query_start = block_.device(query_start_);
  views_.sequences.context_lengths = block_.device(context_lengths_);
  views_.sequences.block_tables = block_.device(block_tables_);
  views_.sequences.sequences.value = counts + count_sequences;
  views_.logit_rows = block_.device(logit_rows_);
  views_.sampling = block_.device(sampling_);
  views_.adjustments = block_.device(adjustments_);
}

void step_inputs::load(gpu::operations& backend, const plan::step_plan& plan) {
  auto* counts = block_.host<int32_t>(counts_);
  counts[count_tokens] = plan.num_tokens();
  counts[count_sequences] = plan.num_sequences();
  counts[count_rows] = plan.num_rows();
  counts[count_adjustments] = static_cast<int32_t>(plan.adjustments.size());
  pack_tokens(plan);
  pack_sequences(plan);
  pack_rows(plan);
  if (plan.adjustments.empty())
    block_.send(backend, block_tables_, table_bytes(plan));
  else
    block_.send(backend, adjustments_, bytes_of(plan.adjustments));
}

void step_inputs::pack_tokens(const plan::step_plan& plan) {
  pack(block_.host<int32_t>(token_ids_), plan.token_ids, plan.bucket_tokens, 0);
  pack(block_.host<int32_t>(slot_mapping_), plan.slot_mapping, plan.bucket_tokens, -1);
  pack(block_.host<int32_t>(row_map_), plan.row_map, plan.bucket_tokens, -1);
  const int32_t tokens = plan.num_tokens();
  for (int32_t axis = 0; axis < 3; ++axis)
    std::copy_n(plan.positions.begin() + axis * tokens, tokens,
                block_.host<int32_t>(positions_) + axis * max_tokens_);
}

void step_inputs::pack_sequences(const plan::step_plan& plan) {
  std::copy(plan.query_start.begin(), plan.query_start.end(), block_.host<int32_t>(query_start_));
  std::copy(plan.context_lengths.begin(), plan.context_lengths.end(),
            block_.host<int32_t>(context_lengths_));
  // A plan's rows are as long as its longest table; the arena's have a fixed place each.
  const int32_t width = plan.max_blocks_per_sequence;
  for (int32_t i = 0; i < plan.num_sequences(); ++i)
    std::copy_n(plan.block_tables.begin() + i * width, width,
                block_.host<int32_t>(block_tables_) + int64_t{i} * max_blocks_);
}

int64_t step_inputs::table_bytes(const plan::step_plan& plan) const {
  return (int64_t{plan.num_sequences() - 1} * max_blocks_ + plan.max_blocks_per_sequence) *
         int64_t{sizeof(int32_t)};
}

void step_inputs::pack_rows(const plan::step_plan& plan) {
  std::copy(plan.logit_rows.begin(), plan.logit_rows.end(), block_.host<int32_t>(logit_rows_));
  std::copy(plan.sampling.begin(), plan.sampling.end(), block_.host<plan::sampling_row>(sampling_));
  std::copy(plan.adjustments.begin(), plan.adjustments.end(),
            block_.host<plan::logit_adjustment>(adjustments_));
}

plan::step_plan warm_up_plan(const plan::plan_limits& limits, int32_t bucket_tokens) {
  plan::step_plan plan;
  plan.bucket_tokens = bucket_tokens;
  plan.token_ids = {0};
  plan.positions = {0, 0, 0};
  plan.slot_mapping = {-1};
  plan.row_map = {-1};
  plan.query_start = {0, 1};
  plan.context_lengths = {1};
  plan.max_blocks_per_sequence = limits.max_blocks_per_sequence;
  plan.block_tables.assign(static_cast<size_t>(limits.max_blocks_per_sequence), 0);
  plan.logit_rows = {0};
  plan.sampling = {plan::sampling_row{}};
  return plan;
}

}  // namespace troupe::model
