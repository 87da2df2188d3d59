#include "support/step_builder.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <utility>

namespace troupe::testing {

step_builder::step_builder(plan::plan_limits limits, uint64_t epoch) : limits_(std::move(limits)) {
  // Block 0 is never handed out. Taken from the back, so the lowest go first.
  for (int32_t block = limits_.num_blocks - 1; block > 0; --block) free_blocks_.push_back(block);
  next_.epoch = epoch;
  next_.step = 1;
  next_.query_start = {0};
}

plan::sampling_row step_builder::greedy() {
  plan::sampling_row row;
  row.temperature = 0;
  return row;
}

int32_t step_builder::add(const plan::prompt& prompt, const std::vector<int32_t>& pool_rows,
                          int32_t max_new_tokens, const plan::sampling_row& sampling) {
  sequence_state state;
  state.prompt = prompt;
  state.tokens = prompt.token_ids;
  state.num_tokens = static_cast<int32_t>(state.tokens.size());
  state.sampling = sampling;
  state.pool_row.assign(state.tokens.size(), -1);
  size_t next_row = 0;
  for (const auto& span : prompt.spans)
    for (int32_t i = 0; i < span.num_tokens; ++i)
      state.pool_row[static_cast<size_t>(span.first_token + i)] = pool_rows.at(next_row++);
  config::ensure(next_row == pool_rows.size(), "{} pool rows for {} visual tokens",
                 pool_rows.size(), next_row);

  const int32_t num_blocks =
      (state.num_tokens + max_new_tokens + limits_.block_size - 1) / limits_.block_size;
  config::ensure(num_blocks <= static_cast<int32_t>(free_blocks_.size()) &&
                     num_blocks <= limits_.max_blocks_per_sequence,
                 "a sequence of {} blocks, {} are free and {} fit a table", num_blocks,
                 free_blocks_.size(), limits_.max_blocks_per_sequence);
  for (int32_t i = 0; i < num_blocks; ++i) {
    state.blocks.push_back(free_blocks_.back());
    free_blocks_.pop_back();
  }
  sequences_.push_back(std::move(state));
  return static_cast<int32_t>(sequences_.size()) - 1;
}

void step_builder::remove(int32_t sequence) {
  auto& blocks = at(sequence).blocks;
  free_blocks_.insert(free_blocks_.end(), blocks.rbegin(), blocks.rend());
  blocks.clear();
}

int32_t step_builder::pending(int32_t sequence) const {
  const auto& state = sequences_[static_cast<size_t>(sequence)];
  return state.num_tokens - state.computed;
}

void step_builder::advance(int32_t sequence, int32_t count) {
  auto& state = at(sequence);
  const int32_t end = state.computed + std::min(count, pending(sequence));
  for (int32_t index = state.computed; index < end; ++index) add_token(state, index);
  state.computed = end;

  next_.query_start.push_back(next_.num_tokens());
  next_.context_lengths.push_back(end);
  const auto used = static_cast<size_t>((end + limits_.block_size - 1) / limits_.block_size);
  next_.block_tables.insert(next_.block_tables.end(), state.blocks.begin(),
                            state.blocks.begin() + static_cast<int64_t>(used));
  next_.block_tables.resize(next_.context_lengths.size() *
                            static_cast<size_t>(limits_.max_blocks_per_sequence));
  if (end < state.num_tokens) return;
  next_.logit_rows.push_back(next_.num_tokens() - 1);
  next_.sampling.push_back(state.sampling);
  next_.sampling.back().position = end;
  next_rows_.push_back(sequence);
  ++state.num_tokens;
}

void step_builder::add_token(const sequence_state& state, int32_t index) {
  const auto i = static_cast<size_t>(index);
  const bool in_prompt = i < state.prompt.token_ids.size();
  next_.token_ids.push_back(i < state.tokens.size() ? state.tokens[i]
                                                    : -1 - row_of_pending_token(state));
  next_.row_map.push_back(in_prompt ? state.pool_row[i] : -1);
  const int32_t block = state.blocks.at(i / static_cast<size_t>(limits_.block_size));
  next_.slot_mapping.push_back(block * limits_.block_size + index % limits_.block_size);
  // Kept as triples until `build` knows the number of tokens.
  for (const auto& axis : state.prompt.positions)
    next_.positions.push_back(in_prompt ? axis[i] : index + state.prompt.rope_delta);
}

int32_t step_builder::row_of_pending_token(const sequence_state& state) const {
  config::ensure(!in_flight_.empty(), "a token is not known and no plan in flight samples it");
  const auto& rows = in_flight_.back();
  const auto found =
      std::find(rows.begin(), rows.end(), static_cast<int32_t>(&state - sequences_.data()));
  config::ensure(found != rows.end(), "the previous plan does not sample this sequence");
  return static_cast<int32_t>(found - rows.begin());
}

plan::step_plan step_builder::build() {
  plan::step_plan plan = std::move(next_);
  const auto tokens = static_cast<size_t>(plan.num_tokens());
  const std::vector<int32_t> triples = std::move(plan.positions);
  plan.positions.resize(3 * tokens);
  for (size_t i = 0; i < triples.size(); ++i) plan.positions[i % 3 * tokens + i / 3] = triples[i];
  plan.bucket_tokens = limits_.bucket_for(plan.num_tokens());
  plan.max_blocks_per_sequence = limits_.max_blocks_per_sequence;
  plan.content = plan::compute_digest(plan);

  in_flight_.push_back(std::exchange(next_rows_, {}));
  next_ = {};
  next_.epoch = plan.epoch;
  next_.step = plan.step + 1;
  next_.query_start = {0};
  return plan;
}

void step_builder::complete(const plan::step_result& result) {
  config::ensure(!in_flight_.empty(), "no plan in flight");
  const auto& rows = in_flight_.front();
  config::ensure(rows.size() == result.tokens.size(), "{} tokens for {} rows", result.tokens.size(),
                 rows.size());
  for (size_t row = 0; row < rows.size(); ++row) at(rows[row]).tokens.push_back(result.tokens[row]);
  in_flight_.erase(in_flight_.begin());
}

const std::vector<int32_t>& step_builder::tokens(int32_t sequence) const {
  return sequences_[static_cast<size_t>(sequence)].tokens;
}

std::vector<int32_t> step_builder::generated(int32_t sequence) const {
  const auto& state = sequences_[static_cast<size_t>(sequence)];
  return {state.tokens.begin() + static_cast<int64_t>(state.prompt.token_ids.size()),
          state.tokens.end()};
}

}  // namespace troupe::testing
