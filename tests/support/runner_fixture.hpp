#pragma once

#include "support/reference_prompt.hpp"
#include "support/reference_set.hpp"
#include "support/runner_group.hpp"
#include "support/step_builder.hpp"

#include <cstdint>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace troupe::testing {

/// The case of `set` called `name`; fails the process if there is none.
const reference_case& case_named(const reference_set& set, const std::string& name);

/// A group, a builder of plans for it, and the cases of a reference set to make them of.
struct runner_fixture {
  explicit runner_fixture(const group_options& options = {.checkpoint = "tiny"})
      : group(options), builder(group.limits()), set("ref-" + options.checkpoint) {}

  plan::prompt prompt(const std::string& name) const;
  /// In the dtype of the group.
  std::vector<model::patch_rows> pictures(const std::string& name);
  /// Encodes the pictures of a case into neighbouring rows of the pool, and returns these; none for
  /// text.
  std::vector<int32_t> encode(const std::string& name, int32_t first_row = 0);
  /// One step that advances `sequence` by up to `count` tokens; the logits of its row if it has
  /// one.
  std::vector<float> step(int32_t sequence, int32_t count);
  /// What `run` generates for a case of text, of the reference's length, always one plan ahead: a plan is
  /// built before the step has run that samples the token it goes on from.
  std::vector<int32_t> answer_planned_ahead(
      const std::string& name, const std::function<plan::step_result(const plan::step_plan&)>& run);

  runner_group group;
  step_builder builder;
  reference_set set;
};

}  // namespace troupe::testing
