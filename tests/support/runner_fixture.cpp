#include "support/runner_fixture.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <utility>

namespace troupe::testing {

const reference_case& case_named(const reference_set& set, const std::string& name) {
  const auto found =
      std::find_if(set.cases.begin(), set.cases.end(),
                   [&](const reference_case& example) { return example.name == name; });
  config::ensure(found != set.cases.end(), "{} has no case {}", set.name, name);
  return *found;
}

plan::prompt runner_fixture::prompt(const std::string& name) const {
  return prompt_of(case_named(set, name), group.checkpoint().model);
}

std::vector<model::patch_rows> runner_fixture::pictures(const std::string& name) {
  return patches_of(case_named(set, name), group.checkpoint().preprocessor,
                    group.pool().view().type);
}

std::vector<int32_t> runner_fixture::encode(const std::string& name, int32_t first_row) {
  const auto items = pictures(name);
  if (items.empty()) return {};
  const auto placed = place(items, group.checkpoint().preprocessor.merge_size, first_row);
  group.encode(placed.items);
  return placed.rows;
}

std::vector<float> runner_fixture::step(int32_t sequence, int32_t count) {
  builder.advance(sequence, count);
  const plan::step_result result = group.run(builder.build());
  builder.complete(result);
  return result.tokens.empty() ? std::vector<float>{} : group.logits(0);
}

std::vector<int32_t> runner_fixture::answer_planned_ahead(
    const std::string& name, const std::function<plan::step_result(const plan::step_plan&)>& run) {
  const int32_t sequence = builder.add(prompt(name));
  builder.advance(sequence, builder.pending(sequence));
  plan::step_plan current = builder.build();
  for (size_t i = 0; i < case_named(set, name).generated_ids.size(); ++i) {
    builder.advance(sequence, 1);
    plan::step_plan next = builder.build();
    builder.complete(run(current));
    current = std::move(next);
  }
  return builder.generated(sequence);
}

}  // namespace troupe::testing
