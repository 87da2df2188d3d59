#include "support/filled_steps.hpp"

#include <algorithm>
#include <array>
#include <utility>

namespace troupe::testing {
namespace {

// The longest first: they fill large steps.
const std::array<std::string, 5> case_names{"image6-256x256-png", "video", "pair",
                                            "image3-64x64-png", "text0"};
constexpr int32_t num_long_cases = 2;
constexpr int32_t long_step_tokens = 64;
constexpr size_t max_decoding = 6;
constexpr size_t max_generated = 50;

/// Blocks that hold nothing but tokens of this step.
std::vector<int32_t> begun_blocks(const plan::step_plan& plan, int32_t block_size) {
  std::vector<int32_t> begun;
  for (int32_t s = 0; s < plan.num_sequences(); ++s) {
    const auto i = static_cast<size_t>(s);
    const int32_t end = plan.context_lengths[i];
    const int32_t first = end - (plan.query_start[i + 1] - plan.query_start[i]);
    for (int32_t block = (first + block_size - 1) / block_size; block * block_size < end; ++block)
      begun.push_back(plan.block_tables[i * static_cast<size_t>(plan.max_blocks_per_sequence) +
                                        static_cast<size_t>(block)]);
  }
  return begun;
}

}  // namespace

filled_steps::filled_steps(runner_fixture& fixture, uint32_t seed)
    : fixture_(&fixture), random_(seed) {
  for (const auto& name : case_names) {
    rows_[name] = fixture.encode(name, num_pool_rows_);
    num_pool_rows_ += static_cast<int32_t>(rows_[name].size());
  }
  while (decoding_.size() < max_decoding)
    decoding_.push_back(add(case_names.at(decoding_.size() % case_names.size())));
}

int32_t filled_steps::add(const std::string& name) {
  return fixture_->builder.add(fixture_->prompt(name), rows_.at(name));
}

plan::step_plan filled_steps::next(int32_t tokens, int32_t bucket) {
  auto& builder = fixture_->builder;
  num_decoding_ = std::min(tokens, below(max_decoding + 1));
  for (int32_t i = 0; i < num_decoding_; ++i) builder.advance(decoding_[static_cast<size_t>(i)], 1);
  for (int32_t left = tokens - num_decoding_; left > 0;) {
    const int32_t choices =
        left > long_step_tokens ? num_long_cases : static_cast<int32_t>(case_names.size());
    const int32_t sequence = add(case_names.at(static_cast<size_t>(below(choices))));
    const int32_t count = std::min(left, builder.pending(sequence));
    builder.advance(sequence, count);
    passing_.push_back(sequence);
    left -= count;
  }
  plan::step_plan plan = builder.build();
  plan.bucket_tokens = bucket;
  plan.cleared_blocks = begun_blocks(plan, fixture_->group.limits().block_size);
  plan.content = plan::compute_digest(plan);
  return plan;
}

std::vector<int32_t> filled_steps::complete(const plan::step_plan& plan,
                                            const plan::step_result& result) {
  auto& builder = fixture_->builder;
  builder.complete(result);
  std::vector<int32_t> freed;
  const auto free_sequence = [&](int32_t sequence, int32_t place) {
    const auto row = plan.block_tables.begin() + int64_t{place} * plan.max_blocks_per_sequence;
    std::copy_if(row, row + plan.max_blocks_per_sequence, std::back_inserter(freed),
                 [](int32_t block) { return block != 0; });
    builder.remove(sequence);
  };
  for (int32_t i = 0; i < num_decoding_; ++i) {
    auto& sequence = decoding_[static_cast<size_t>(i)];
    if (builder.generated(sequence).size() < max_generated) continue;
    free_sequence(sequence, i);
    sequence = add(case_names.at(static_cast<size_t>(below(case_names.size()))));
  }
  for (size_t i = 0; i < passing_.size(); ++i)
    free_sequence(passing_[i], num_decoding_ + static_cast<int32_t>(i));
  passing_.clear();
  return freed;
}

std::vector<model::step_fingerprint> run_all_buckets(runner_fixture& fixture) {
  std::vector<model::step_fingerprint> all;
  filled_steps steps(fixture, 5);
  for (const int32_t bucket : fixture.group.limits().token_buckets) {
    const plan::step_plan plan = steps.next(bucket, bucket);
    steps.complete(plan, fixture.group.run(plan));
    for (auto& found : fixture.group.fingerprints(plan)) all.push_back(std::move(found));
  }
  return all;
}

}  // namespace troupe::testing
