#pragma once

#include "support/runner_fixture.hpp"

#include <cstdint>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace troupe::testing {

/// Mixed steps of exactly so many tokens, equal for equal seeds: some decodes, and chunks of text,
/// picture and clip prompts that fill the step up. The pictures are encoded once, into neighbouring
/// rows from row 0 on.
class filled_steps {
 public:
  filled_steps(runner_fixture& fixture, uint32_t seed);

  /// A step of `tokens` tokens for the graph of `bucket`. Blocks that it begins are cleared first.
  plan::step_plan next(int32_t tokens, int32_t bucket);
  /// Blocks that are free after this.
  std::vector<int32_t> complete(const plan::step_plan& plan, const plan::step_result& result);

  int32_t num_pool_rows() const { return num_pool_rows_; }

 private:
  int32_t below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(n)); }
  int32_t add(const std::string& name);

  runner_fixture* fixture_;
  std::mt19937 random_;
  std::map<std::string, std::vector<int32_t>> rows_;  // by case
  int32_t num_pool_rows_ = 0;
  std::vector<int32_t> decoding_;
  std::vector<int32_t> passing_;  // of the step that was built last, and gone after it
  int32_t num_decoding_ = 0;      // of them in that step, the first ones
};

/// A filled step of every bucket, the same ones for equal fixtures; what they computed on all ranks.
std::vector<model::step_fingerprint> run_all_buckets(runner_fixture& fixture);

}  // namespace troupe::testing
