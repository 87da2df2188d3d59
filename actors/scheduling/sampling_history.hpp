#pragma once

#include "model/plan/sampling_params.hpp"
#include "model/plan/sampling_row.hpp"

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

namespace troupe::scheduling {

/// The token ids that one request's sampling treats specially, kept up to date token by token: what
/// it generated (penalties), what it has seen (repetition penalty), its bias, and the stop tokens
/// that are banned until `min_tokens` are there.
class sampling_history {
 public:
  /// `stop_tokens`: every id that may end the request.
  sampling_history(const plan::sampling_params& sampling, std::span<const int32_t> prompt,
                   std::span<const int32_t> stop_tokens);

  /// One more generated token that the host knows.
  void record(int32_t token);

  /// The most adjustments that `append` can write now.
  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  /// The most it will ever write.
  int64_t size_max(int32_t max_tokens, int32_t vocab_size) const;
  /// True if a token that the host does not know yet must count for the next row.
  bool counts_generated() const { return counts_generated_; }

  /// Appends the adjustments of logit row `row`, which samples the token `generated_index`.
  void append(std::vector<plan::logit_adjustment>& adjustments, int32_t row,
              int32_t generated_index) const;

 private:
  struct entry {
    plan::logit_adjustment adjustment;  // its row is set by `append`
    bool stops = false;
  };
  entry& entry_of(int32_t token);

  bool counts_generated_;
  bool counts_prompt_;
  int32_t min_tokens_;
  std::vector<entry> entries_;
  std::unordered_map<int32_t, size_t> index_;  // token id -> entry; never iterated
};

}  // namespace troupe::scheduling
