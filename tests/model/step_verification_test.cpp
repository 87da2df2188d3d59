// A graph that does something else than the kernels it was made of is found, and what the eager run
// gives is right.
#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "model/model_runner.hpp"
#include "support/broken_graphs.hpp"
#include "support/random_steps.hpp"
#include "support/runner_fixture.hpp"

#include <boost/test/unit_test.hpp>

#include <memory>
#include <string>
#include <utility>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

template <class Backend>
group_options with_backend(int32_t tp_size = 1) {
  group_options options{.checkpoint = "tiny", .tp_size = tp_size};
  options.backend = [inner = options.backend_options()] {
    return std::make_unique<Backend>(gpu::make_operations(inner));
  };
  return options;
}

/// What a prompt's step gives: once as it comes, once verified.
struct verified_prompt {
  verified_prompt(runner_fixture& f, const std::string& name) {
    const int32_t sequence = f.builder.add(f.prompt(name), f.encode(name));
    f.builder.advance(sequence, 256);
    const plan::step_plan plan = f.builder.build();
    result = f.group.run(plan);
    logits = f.group.logits(0);
    verification = f.group.verify(plan);
    verified_logits = f.group.logits(0);
    f.builder.complete(verification.result);
    f.builder.remove(sequence);
  }
  plan::step_result result;
  std::vector<float> logits;
  model::step_verification verification;
  std::vector<float> verified_logits;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(step_verification)

BOOST_AUTO_TEST_CASE(a_graph_without_deepstack_is_found_by_the_first_picture) {
  for (const int32_t tp_size : {1, 2}) {
    runner_fixture broken(with_backend<deepstackless_graphs>(tp_size));
    runner_fixture sound({.checkpoint = "tiny", .tp_size = tp_size});
    const verified_prompt text(broken, "text0");
    BOOST_TEST(text.verification.difference == "");
    BOOST_TEST((text.logits == text.verified_logits));

    const verified_prompt picture(broken, "image6-256x256-png");
    BOOST_TEST(picture.verification.difference != "");
    BOOST_TEST((picture.logits != picture.verified_logits));
    const verified_prompt expected(sound, "image6-256x256-png");
    BOOST_TEST(expected.verification.difference == "");
    BOOST_TEST((picture.verified_logits == expected.logits));
    BOOST_TEST(picture.verification.result.tokens == expected.result.tokens,
               boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(other_bits_and_equal_tokens_are_a_difference) {
  runner_fixture f(with_backend<imprecise_graphs>());
  const verified_prompt text(f, "text0");
  BOOST_TEST(text.verification.result.tokens == text.result.tokens,
             boost::test_tools::per_element());
  BOOST_TEST(text.verification.difference.find("row 0 of 1 has other logits and the same token") ==
             0U);
}

BOOST_AUTO_TEST_CASE(a_step_without_a_logit_row_is_compared_by_its_residual_stream) {
  runner_fixture f(with_backend<imprecise_graphs>());
  const int32_t sequence = f.builder.add(f.prompt("text0"));
  f.builder.advance(sequence, 7);
  const plan::step_plan chunk = f.builder.build();
  BOOST_REQUIRE(f.group.run(chunk).tokens.empty());
  BOOST_TEST(f.group.verify(chunk).difference == "the residual stream has other bits");
}

BOOST_AUTO_TEST_CASE(a_step_run_eagerly_needs_no_graph) {
  runner_fixture broken(with_backend<imprecise_graphs>());
  runner_fixture sound;
  const auto logits_of = [](runner_fixture& f, model::step_mode mode) {
    f.builder.advance(f.builder.add(f.prompt("text1")), 100);
    const plan::step_plan plan = f.builder.build();
    f.group.on_rank(0, [&](model::model_runner& runner) { return runner.run(plan, mode); });
    return f.group.logits(0);
  };
  BOOST_TEST(
      (logits_of(broken, model::step_mode::eager) == logits_of(sound, model::step_mode::graph)));
}

BOOST_AUTO_TEST_CASE(the_next_step_goes_on_from_what_the_eager_run_sampled) {
  runner_fixture f;
  const auto answer = f.answer_planned_ahead("text0", [&](const plan::step_plan& plan) {
    f.group.run(plan);
    auto verified = f.group.verify(plan);
    BOOST_TEST(verified.difference == "");
    return std::move(verified.result);
  });
  BOOST_TEST(answer == case_named(f.set, "text0").generated_ids, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(only_the_step_that_ran_last_can_be_verified) {
  runner_fixture f;
  const int32_t sequence = f.builder.add(f.prompt("text0"));
  f.builder.advance(sequence, 7);
  const plan::step_plan first = f.builder.build();
  BOOST_CHECK_EXCEPTION(f.group.verify(first), model::plan_refused, [](const auto& refused) {
    return std::string(refused.what()).find("what ran last is step 0") != std::string::npos;
  });
  f.group.run(first);
  plan::step_plan other = first;
  ++other.content.low;
  BOOST_CHECK_THROW(f.group.verify(other), model::plan_refused);
  f.builder.advance(sequence, 7);
  f.group.run(f.builder.build());
  BOOST_CHECK_THROW(f.group.verify(first), model::plan_refused);
}

BOOST_AUTO_TEST_CASE(sound_graphs_differ_in_nothing_and_verifying_takes_no_memory) {
  runner_fixture f({.checkpoint = "tiny", .tp_size = 2});
  random_steps steps(f, 11);
  const auto counts = gpu::read_counters();
  const int rounds = 400;
  for (int i = 0; i < rounds; ++i) {
    const plan::step_plan plan = steps.next();
    f.group.run(plan);
    const auto verified = f.group.verify(plan);
    BOOST_TEST(verified.difference == "");
    steps.complete(verified.result);
  }
  const auto now = gpu::read_counters();
  BOOST_TEST(now.graph_captures == counts.graph_captures);
  BOOST_TEST(now.arena_allocations == counts.arena_allocations);
  BOOST_TEST(now.graph_replays >= counts.graph_replays + 2 * rounds);  // those of pictures beside
}

BOOST_AUTO_TEST_SUITE_END()
