// The failure this excludes: a graph captured without deepstack answers every request, but without
// the picture's detail. Equal arms alone prove nothing: those of a zeroed pool must differ. For
// every token bucket, with steps that fill it and steps that do not.
#include "support/runner_fixture.hpp"
#include "support/tested_settings.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

constexpr const char* picture_case = "image6-256x256-png";

/// One arm: a group, and the picture's rows in its pool.
struct arm {
  arm(group_options options, bool eager)
      : f(with_mode(std::move(options), eager)), rows(f.encode(picture_case, 5)) {}

  static group_options with_mode(group_options options, bool eager) {
    options.eager = eager;
    return options;
  }
  /// Zeroes the deepstack levels alone: the embeddings stay.
  void zero_deepstack() {
    const gpu::tensor_view pool = f.group.pool().view();
    for (int64_t level = 1; level < pool.shape[0]; ++level) {
      const gpu::tensor_view part = pool.at(level);
      f.group.write_bytes(part, std::vector<std::byte>(static_cast<size_t>(part.span_bytes())));
    }
  }
  /// What a step of up to `tokens` tokens from the picture's first one on computes in the graph of
  /// `bucket`.
  std::vector<model::step_fingerprint> play(int32_t tokens, int32_t bucket) {
    const plan::prompt prompt = f.prompt(picture_case);
    const int32_t sequence = f.builder.add(prompt, rows);
    f.step(sequence, prompt.spans.front().first_token);
    const int32_t own = std::min(tokens, f.builder.pending(sequence));
    f.builder.advance(sequence, own);
    for (int32_t left = tokens - own; left > 0;) {
      const int32_t more = f.builder.add(prompt, rows);
      const int32_t count = std::min(left, f.builder.pending(more));
      f.builder.advance(more, count);
      passing_.push_back(more);
      left -= count;
    }
    plan::step_plan plan = f.builder.build();
    plan.bucket_tokens = bucket;
    plan.content = plan::compute_digest(plan);
    f.builder.complete(f.group.run(plan));
    passing_.push_back(sequence);
    for (const int32_t done : passing_) f.builder.remove(done);
    passing_.clear();
    return f.group.fingerprints(plan);
  }

  runner_fixture f;
  std::vector<int32_t> rows;

 private:
  std::vector<int32_t> passing_;
};

void check_four_arms(const tested_setting& setting) {
  arm graph(setting.options(), false);
  arm eager(setting.options(), true);
  struct step {
    int32_t tokens, bucket;
    std::vector<model::step_fingerprint> result;
  };
  std::vector<step> steps;
  for (const int32_t bucket : graph.f.group.limits().token_buckets)
    for (const int32_t tokens : {bucket, bucket / 2, 1})
      if (tokens > 0) steps.push_back({tokens, bucket, graph.play(tokens, bucket)});
  for (const auto& [tokens, bucket, result] : steps)
    BOOST_TEST((eager.play(tokens, bucket) == result),
               setting << ": " << tokens << " tokens in the bucket of " << bucket);
  graph.zero_deepstack();
  eager.zero_deepstack();
  for (const auto& [tokens, bucket, result] : steps)
    BOOST_TEST_CONTEXT(setting << ": " << tokens << " tokens in the bucket of " << bucket) {
      const auto zeroed = graph.play(tokens, bucket);
      BOOST_TEST((eager.play(tokens, bucket) == zeroed));
      for (size_t rank = 0; rank < result.size(); ++rank)
        BOOST_TEST((zeroed[rank].residual != result[rank].residual));
    }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(deepstack_arms)

BOOST_AUTO_TEST_CASE(graphs_and_eager_runs_agree_and_both_need_the_deepstack_levels) {
  for (const auto& setting : tested_settings()) check_four_arms(setting);
}

BOOST_AUTO_TEST_SUITE_END()
