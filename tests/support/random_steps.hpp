#pragma once

#include "support/runner_fixture.hpp"

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace troupe::testing {

/// Mixed steps without end for a fixture's group, equal for equal seeds: prompts of text, pictures
/// and clips in chunks, beside decodes, at most six sequences at a time. A picture's rows are
/// overwritten while others may read them: for tests that compare a step with itself.
class random_steps {
 public:
  random_steps(runner_fixture& fixture, uint32_t seed) : fixture_(&fixture), random_(seed) {}

  /// Encodes what the step needs and builds its plan.
  plan::step_plan next();
  void complete(const plan::step_result& result);

 private:
  int32_t below(int32_t n) { return static_cast<int32_t>(random_() % static_cast<uint32_t>(n)); }
  bool advance_some();

  runner_fixture* fixture_;
  std::mt19937 random_;
  std::vector<int32_t> running_;
};

}  // namespace troupe::testing
