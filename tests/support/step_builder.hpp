#pragma once

#include "model/plan/prompt.hpp"
#include "model/plan/step_plan.hpp"

#include <cstdint>
#include <vector>

namespace troupe::testing {

/// Makes step plans by hand, without a scheduler: sequences with blocks of their own, any number of
/// them per step, each advanced by as many tokens as the test says. A sequence whose last known
/// token is in the step is sampled.
///
///   step_builder builder(limits);
///   const int32_t a = builder.add(prompt, rows);
///   builder.advance(a, 17);
///   auto plan = builder.build();       // a chunk of prefill
///   builder.complete(runner.run(plan));
class step_builder {
 public:
  explicit step_builder(plan::plan_limits limits, uint64_t epoch = 1);

  /// A sequence of `prompt`, with blocks for `max_new_tokens` more. `pool_rows` [visual tokens] are
  /// the rows that replace the prompt's placeholders, in order. Returns its index.
  int32_t add(const plan::prompt& prompt, const std::vector<int32_t>& pool_rows = {},
              int32_t max_new_tokens = 64, const plan::sampling_row& sampling = greedy());
  /// Gives the blocks of a sequence back.
  void remove(int32_t sequence);

  /// Puts the next `count` tokens of a sequence into the plan being built; fewer if it has no more.
  /// The token that the previous plan samples counts as known: it is referred to by its row.
  void advance(int32_t sequence, int32_t count);
  /// Tokens of a sequence that no plan has computed yet.
  int32_t pending(int32_t sequence) const;

  /// Finishes the plan: padding, digest.
  plan::step_plan build();
  /// Appends what the oldest plan not yet completed sampled.
  void complete(const plan::step_result& result);

  /// Prompt and generated tokens that `complete` reported.
  const std::vector<int32_t>& tokens(int32_t sequence) const;
  std::vector<int32_t> generated(int32_t sequence) const;

  static plan::sampling_row greedy();

 private:
  struct sequence_state {
    plan::prompt prompt;
    std::vector<int32_t> pool_row;  // [prompt tokens] or -1
    std::vector<int32_t> tokens;    // known ones
    std::vector<int32_t> blocks;    // in order; enough for all tokens to come
    plan::sampling_row sampling;
    int32_t computed = 0;    // tokens whose keys and values some plan writes
    int32_t num_tokens = 0;  // known and sampled-but-not-completed ones
  };

  sequence_state& at(int32_t sequence) { return sequences_[static_cast<size_t>(sequence)]; }
  void add_token(const sequence_state& state, int32_t index);
  int32_t row_of_pending_token(const sequence_state& state) const;

  plan::plan_limits limits_;
  std::vector<int32_t> free_blocks_;
  std::vector<sequence_state> sequences_;
  plan::step_plan next_;
  std::vector<int32_t> next_rows_;               // [rows] sequence that the row of `next_` samples
  std::vector<std::vector<int32_t>> in_flight_;  // the same of plans built but not completed
};

}  // namespace troupe::testing
