#include "support/random_steps.hpp"

#include <algorithm>
#include <array>

namespace troupe::testing {
namespace {

const std::array<std::string, 5> case_names{"text0", "text3", "image3-64x64-png", "pair", "video"};
constexpr size_t max_sequences = 6;
constexpr size_t max_generated = 60;

}  // namespace

plan::step_plan random_steps::next() {
  auto& builder = fixture_->builder;
  while (true) {
    if (running_.size() < max_sequences && below(3) == 0) {
      const auto& name = case_names.at(static_cast<size_t>(below(case_names.size())));
      running_.push_back(builder.add(fixture_->prompt(name), fixture_->encode(name)));
    }
    if (advance_some()) return builder.build();
  }
}

bool random_steps::advance_some() {
  auto& builder = fixture_->builder;
  int32_t budget = fixture_->group.limits().max_num_batched_tokens;
  bool any = false;
  for (const int32_t sequence : running_) {
    const int32_t count = std::min(budget, 1 + below(20));
    if (count == 0 || below(4) == 0) continue;
    budget -= std::min(count, builder.pending(sequence));
    builder.advance(sequence, count);
    any = true;
  }
  return any;
}

void random_steps::complete(const plan::step_result& result) {
  auto& builder = fixture_->builder;
  builder.complete(result);
  std::erase_if(running_, [&](int32_t sequence) {
    const bool done = builder.generated(sequence).size() >= max_generated || below(40) == 0;
    if (done) builder.remove(sequence);
    return done;
  });
}

}  // namespace troupe::testing
