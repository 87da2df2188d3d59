// What a runner promises beside numbers: it refuses what it must not run, changes nothing then,
// makes nothing after start, and no live row ever depends on garbage beside it.
#include "model/model_runner.hpp"
#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"
#include "support/forwarding_operations.hpp"
#include "support/random_steps.hpp"
#include "support/runner_fixture.hpp"
#include "transport/error.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstring>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

using fixture = runner_fixture;

/// The message of the exception that `plan` is refused with.
std::string refusal(fixture& f, const plan::step_plan& plan) {
  try {
    f.group.run(plan);
  } catch (const model::plan_refused& refused) {
    return refused.what();
  }
  return "not refused";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

/// Overwrites rows of every level of the pool with NaN.
void poison_rows(model::visual_pool& pool, const std::vector<int32_t>& rows) {
  const gpu::tensor_view view = pool.view();
  for (int64_t level = 0; level < view.shape[0]; ++level)
    for (const int32_t row : rows)
      std::fill_n(view.at(level).at(row).as<float>(), view.width(),
                  std::numeric_limits<float>::quiet_NaN());
}

/// Forgets to read the row map, as a network captured without deepstack would.
class mapless_operations : public forwarding_operations {
 public:
  using forwarding_operations::forwarding_operations;
  void embed(gpu::tensor_view output, gpu::tensor_view resolved_ids, gpu::tensor_view token_ids,
             gpu::tensor_view sampled, gpu::tensor_view table, const gpu::visual_slot& slot,
             gpu::live_count tokens) override {
    forwarding_operations::embed(output, resolved_ids, token_ids, sampled, table,
                                 {slot.pool, token_ids}, tokens);
    other_map_ = token_ids;
  }
  void all_reduce_add_norm(gpu::tensor_view normed, gpu::tensor_view residual,
                           gpu::tensor_view partial, gpu::tensor_view norm_weight, float epsilon,
                           const gpu::visual_slot& slot, int32_t, const gpu::lane_view& lane,
                           gpu::live_count rows) override {
    forwarding_operations::all_reduce_add_norm(normed, residual, partial, norm_weight, epsilon,
                                               {slot.pool, other_map_}, -1, lane, rows);
  }

 private:
  gpu::tensor_view other_map_;
};

/// Reads the map, but adds no deepstack level.
class levelless_operations : public forwarding_operations {
 public:
  using forwarding_operations::forwarding_operations;
  void all_reduce_add_norm(gpu::tensor_view normed, gpu::tensor_view residual,
                           gpu::tensor_view partial, gpu::tensor_view norm_weight, float epsilon,
                           const gpu::visual_slot& slot, int32_t, const gpu::lane_view& lane,
                           gpu::live_count rows) override {
    forwarding_operations::all_reduce_add_norm(normed, residual, partial, norm_weight, epsilon,
                                               slot, -1, lane, rows);
  }
};

template <class Backend>
group_options with_backend() {
  group_options options{.checkpoint = "tiny"};
  options.backend = [] { return std::make_unique<Backend>(gpu::make_cpu_operations({})); };
  return options;
}

}  // namespace

BOOST_AUTO_TEST_CASE(a_graph_that_misses_a_part_of_the_deepstack_slot_is_not_built) {
  const auto message = [](const std::string& part) {
    return [part](const gpu::error& failure) { return contains(failure.what(), part); };
  };
  BOOST_CHECK_EXCEPTION(fixture(with_backend<mapless_operations>()), gpu::error,
                        message("does not read the row map"));
  BOOST_CHECK_EXCEPTION(fixture(with_backend<levelless_operations>()), gpu::error,
                        message("does not read level 1 of the visual pool"));
}

BOOST_AUTO_TEST_CASE(a_refused_plan_changes_nothing) {
  fixture f;
  const int32_t sequence = f.builder.add(f.prompt("text0"));
  f.builder.advance(sequence, 12);
  const plan::step_plan first = f.builder.build();

  plan::step_plan wrong = first;
  wrong.epoch = 2;
  wrong.content = plan::compute_digest(wrong);
  BOOST_TEST(contains(refusal(f, wrong), "plan of epoch 2, expected 1"));
  wrong = first;
  wrong.step = 2;
  wrong.content = plan::compute_digest(wrong);
  BOOST_TEST(contains(refusal(f, wrong), "plan of step 2, expected 1"));
  wrong = first;
  wrong.slot_mapping[3] += 1;
  wrong.content = plan::compute_digest(wrong);
  BOOST_TEST(contains(refusal(f, wrong), "slot_mapping"));
  wrong = first;
  wrong.token_ids[0] += 1;  // the digest is not its content's
  BOOST_TEST(contains(refusal(f, wrong), "digest"));
  wrong = first;
  wrong.bucket_tokens = 17;
  wrong.content = plan::compute_digest(wrong);
  BOOST_TEST(contains(refusal(f, wrong), "bucket"));

  f.builder.complete(f.group.run(first));
  BOOST_TEST(contains(refusal(f, first), "plan of step 1, expected 2"));
  const auto logits = f.step(sequence, 100);

  fixture clean;
  const int32_t same = clean.builder.add(clean.prompt("text0"));
  clean.step(same, 12);
  BOOST_TEST((clean.step(same, 100) == logits));
}

BOOST_AUTO_TEST_CASE(a_token_of_a_row_that_was_not_sampled_is_refused) {
  fixture f;
  const int32_t sequence = f.builder.add(f.prompt("text0"));
  f.step(sequence, 100);
  f.builder.advance(sequence, 1);
  plan::step_plan plan = f.builder.build();
  plan.token_ids[0] = -3;
  plan.content = plan::compute_digest(plan);
  BOOST_TEST(contains(refusal(f, plan), "token 0 refers to row 2 of step 1, which sampled 1 rows"));
}

BOOST_AUTO_TEST_CASE(a_retired_generation_is_refused_before_anything_is_touched) {
  for (const bool eager : {false, true}) {
    fixture f({.checkpoint = "tiny", .eager = eager});
    const int32_t sequence = f.builder.add(f.prompt("text0"));
    f.builder.advance(sequence, 100);
    const plan::step_plan plan = f.builder.build();
    // With guard any touch of the old memory would end this process.
    f.group.on_rank(0, [](model::model_runner& runner) { runner.retire(true); });
    BOOST_TEST(contains(refusal(f, plan), "retired"));
  }
}

BOOST_AUTO_TEST_CASE(the_next_step_may_refer_to_tokens_that_are_not_known_yet) {
  fixture f;
  int32_t steps = 0;
  const auto answer = f.answer_planned_ahead("text0", [&](const plan::step_plan& plan) {
    BOOST_TEST((plan.token_ids[0] == -1) == (steps++ > 0));
    return f.group.run(plan);
  });
  BOOST_TEST(answer == case_named(f.set, "text0").generated_ids, boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(a_peer_that_does_not_come_is_reported_and_the_rank_runs_nothing_more) {
  // Long enough for the ranks to meet while they start, which one bucket makes short.
  fixture f({.checkpoint = "tiny",
             .tp_size = 2,
             .timeout = std::chrono::seconds(3),
             .token_buckets = {256}});
  const int32_t sequence = f.builder.add(f.prompt("text0"));
  f.builder.advance(sequence, 100);
  const plan::step_plan plan = f.builder.build();
  BOOST_CHECK_EXCEPTION(f.group.run_on(0, plan).get(), model::peer_lost,
                        [](const auto& e) { return contains(e.what(), "later than 3000 ms"); });
  BOOST_CHECK_EXCEPTION(f.group.run_on(0, plan).get(), model::plan_refused,
                        [](const auto& e) { return contains(e.what(), "lost its group"); });
}

BOOST_AUTO_TEST_CASE(a_peer_that_does_not_warm_up_is_reported) {
  const auto checkpoint = config::read_checkpoint_config(fixtures() / "tiny");
  const auto limits = reference_limits(checkpoint.model);
  const transport::symmetric_memory memory(
      2, {model::model_runner::lane(checkpoint.model, limits, 2)});
  model::model_runner lonely(
      gpu::make_cpu_operations({}), checkpoint.model, limits,
      model::random_text_weights(checkpoint.model, 1, 0, 2),
      std::make_unique<transport::symmetric_arena>(0, memory.file_descriptors(), memory.lanes(),
                                                   std::chrono::milliseconds(50)),
      model::visual_pool(checkpoint.model, gpu::dtype::f32, limits.visual_pool_rows),
      {gpu::dtype::f32, false, 1, {}});
  BOOST_CHECK_THROW(lonely.capture([](int32_t, int32_t) {}), model::peer_lost);
}

BOOST_AUTO_TEST_CASE(an_aborted_group_leaves_its_waits_at_once) {
  fixture f({.checkpoint = "tiny", .tp_size = 2, .timeout = std::chrono::minutes(10)});
  const int32_t sequence = f.builder.add(f.prompt("text0"));
  f.builder.advance(sequence, 100);
  auto waiting = f.group.run_on(0, f.builder.build());
  f.group.abort();
  BOOST_CHECK_EXCEPTION(waiting.get(), model::peer_lost,
                        [](const auto& e) { return contains(e.what(), "aborted"); });
}

BOOST_AUTO_TEST_CASE(plans_of_the_old_group_are_refused_in_the_new_one) {
  fixture f({.checkpoint = "tiny", .tp_size = 2});
  f.builder.advance(f.builder.add(f.prompt("text0")), 100);
  const plan::step_plan old = f.builder.build();
  f.group.run(old);
  f.group.abort();
  f.group.begin_anew(2, {1});
  BOOST_CHECK_EXCEPTION(f.group.run(old), model::plan_refused, [](const auto& e) {
    return contains(e.what(), "plan of epoch 1, expected 2");
  });
  f.builder = step_builder(f.group.limits(), 2);
  f.builder.advance(f.builder.add(f.prompt("text0")), 100);
  plan::step_plan reading = f.builder.build();
  reading.token_ids.back() = -1;  // what row 0 of the step before sampled
  reading.content = plan::compute_digest(reading);
  BOOST_CHECK_EXCEPTION(f.group.run(reading), model::plan_refused,
                        [](const auto& e) { return contains(e.what(), "sampled 0 rows"); });
}

BOOST_AUTO_TEST_CASE(a_rank_that_cannot_join_runs_nothing) {
  fixture f({.checkpoint = "tiny", .tp_size = 2});
  f.group.abort();
  const transport::symmetric_memory small(2, {{"text", 64}});
  BOOST_CHECK_EXCEPTION(
      f.group.on_rank(0, [&](auto& runner) { return runner.join(small.file_descriptors(), 2); }),
      transport::error,
      [](const auto& e) { return contains(e.what(), "cannot take the memory of a new group"); });
  f.builder = step_builder(f.group.limits(), 2);
  f.builder.advance(f.builder.add(f.prompt("text0")), 100);
  BOOST_CHECK_THROW(f.group.run_on(0, f.builder.build()).get(), model::plan_refused);
}

/// What a sequence of NaN, or a step that was cut short, left in the KV cache is not there any
/// more.
BOOST_AUTO_TEST_CASE(a_rank_joins_with_an_empty_cache) {
  fixture f({.checkpoint = "tiny", .tp_size = 2});
  const auto rows = f.encode("image3-64x64-png");
  poison_rows(f.group.pool(), rows);
  f.step(f.builder.add(f.prompt("image3-64x64-png"), rows), 100);
  f.group.abort();
  f.group.begin_anew(2, {});

  f.builder = step_builder(f.group.limits(), 2);
  const int32_t next = f.builder.add(f.prompt("text0"));
  f.builder.advance(next, f.builder.pending(next) - 1);
  const plan::step_plan never_run = f.builder.build();
  f.builder.advance(next, 1);
  plan::step_plan reading = f.builder.build();  // in the blocks of the picture
  reading.step = never_run.step;
  reading.content = plan::compute_digest(reading);
  BOOST_TEST(f.group.run(reading).tokens.at(0) >= 0);
}

BOOST_AUTO_TEST_CASE(a_picture_of_nan_spoils_its_own_request_alone) {
  fixture f;
  const auto rows = f.encode("image6-256x256-png");
  const auto play = [&](const std::vector<int32_t>& pool_rows) {
    const int32_t sequence = f.builder.add(f.prompt("image6-256x256-png"), pool_rows);
    const auto logits = f.step(sequence, 256);
    const int32_t token = f.builder.tokens(sequence).back();
    f.builder.remove(sequence);
    return std::pair(token, logits);
  };
  const auto clean = play(rows);
  std::vector<int32_t> bad_rows;
  for (const int32_t row : rows) bad_rows.push_back(row + 500);
  poison_rows(f.group.pool(), bad_rows);
  BOOST_TEST(play(bad_rows).first == -1);
  // The same blocks again, their slots still full of NaN, as are all activations past the live
  // rows.
  BOOST_TEST((play(rows) == clean));

  const int32_t text = f.builder.add(f.prompt("text0"));
  const auto text_logits = f.step(text, 100);
  fixture fresh;
  BOOST_TEST((fresh.step(fresh.builder.add(fresh.prompt("text0")), 100) == text_logits));
}

BOOST_AUTO_TEST_CASE(a_cleared_block_holds_nothing_of_its_last_owner) {
  fixture f;
  const auto rows = f.encode("image3-64x64-png");
  poison_rows(f.group.pool(), rows);
  const int32_t bad = f.builder.add(f.prompt("image3-64x64-png"), rows);
  f.step(bad, 100);
  BOOST_REQUIRE(f.builder.tokens(bad).back() == -1);
  f.builder.remove(bad);

  // A plan that reads what its sequence never wrote: whatever the blocks held before.
  const int32_t next = f.builder.add(f.prompt("text0"));
  f.builder.advance(next, f.builder.pending(next) - 1);
  const int32_t step = static_cast<int32_t>(f.builder.build().step);
  f.builder.advance(next, 1);
  plan::step_plan reading = f.builder.build();
  const auto run_as_step = [&](int32_t number) {
    reading.step = static_cast<uint64_t>(number);
    reading.content = plan::compute_digest(reading);
    return f.group.run(reading).tokens;
  };
  BOOST_TEST(run_as_step(step) == std::vector<int32_t>({-1}), boost::test_tools::per_element());
  std::copy_if(reading.block_tables.begin(), reading.block_tables.end(),
               std::back_inserter(reading.cleared_blocks),
               [](int32_t block) { return block != 0; });  // 0 fills a table up
  const auto tokens = run_as_step(step + 1);
  BOOST_REQUIRE(tokens.size() == 1U);
  BOOST_TEST(tokens[0] >= 0);
}

BOOST_AUTO_TEST_CASE(a_request_gets_the_same_logits_beside_one_of_nan) {
  fixture f;
  const auto rows = f.encode("image3-64x64-png");
  const int32_t alone = f.builder.add(f.prompt("text1"));
  const auto expected = f.step(alone, 100);

  poison_rows(f.group.pool(), rows);
  const int32_t bad = f.builder.add(f.prompt("image3-64x64-png"), rows);
  const int32_t good = f.builder.add(f.prompt("text1"));
  f.builder.advance(bad, 100);
  f.builder.advance(good, 100);
  const auto result = f.group.run(f.builder.build());
  f.builder.complete(result);
  BOOST_TEST(result.tokens[0] == -1);
  BOOST_TEST((f.group.logits(1) == expected));
}

BOOST_AUTO_TEST_CASE(nothing_is_captured_or_allocated_after_start) {
  fixture f({.checkpoint = "tiny", .tp_size = 2});
  constexpr int rounds = 400;
  random_steps steps(f, 7);
  const auto counts = gpu::read_counters();
  for (int i = 0; i < rounds; ++i) steps.complete(f.group.run(steps.next()));
  const auto now = gpu::read_counters();
  BOOST_TEST(now.graph_captures == counts.graph_captures);
  BOOST_TEST(now.arena_allocations == counts.arena_allocations);
  BOOST_TEST(now.graph_replays > counts.graph_replays + rounds);
}

BOOST_AUTO_TEST_CASE(log_probabilities_come_for_the_rows_that_ask) {
  fixture f;
  plan::sampling_row asking = step_builder::greedy();
  asking.num_logprobs = 3;
  const int32_t quiet = f.builder.add(f.prompt("text0"));
  const int32_t loud = f.builder.add(f.prompt("text1"), {}, 64, asking);
  f.builder.advance(quiet, 100);
  f.builder.advance(loud, 100);
  const auto result = f.group.run(f.builder.build());
  BOOST_TEST(result.logprobs[0].top_tokens.empty());
  const auto& found = result.logprobs[1];
  BOOST_TEST_REQUIRE(found.top_tokens.size() == 3);
  BOOST_TEST(found.top_tokens[0] == result.tokens[1]);
  BOOST_TEST(found.top_values[0] == found.sampled);

  const auto logits = f.group.logits(1);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit});
  const double expected = double{logits[static_cast<size_t>(result.tokens[1])]} - std::log(sum);
  BOOST_TEST(std::abs(found.sampled - expected) < 1e-4);
}

BOOST_AUTO_TEST_CASE(masked_tokens_are_never_sampled) {
  fixture f;
  const auto& example = case_named(f.set, "text0");
  const auto plan = [&] {
    f.builder.advance(f.builder.add(f.prompt("text0")), 100);
    return f.builder.build();
  }();
  const auto& checkpoint = f.group.checkpoint();
  const auto masked = [&](bool mask_answer) {
    std::vector<uint8_t> mask(static_cast<size_t>(checkpoint.model.text.vocab_size), 1);
    if (mask_answer) mask[static_cast<size_t>(example.generated_ids[0])] = 0;
    auto weights = model::load_text_weights(
        std::make_shared<const model::safetensors_folder>(fixtures() / "tiny"), checkpoint.model, 0,
        1, [](int64_t, int64_t) {});
    model::model_runner runner(
        gpu::make_cpu_operations({}), checkpoint.model, f.group.limits(), std::move(weights),
        nullptr,
        model::visual_pool(checkpoint.model, gpu::dtype::f32, f.group.limits().visual_pool_rows),
        {gpu::dtype::f32, false, 1, mask});
    runner.capture([](int32_t, int32_t) {});
    return runner.run(plan).tokens[0];
  };
  BOOST_TEST(masked(false) == example.generated_ids[0]);
  BOOST_TEST(masked(true) != example.generated_ids[0]);
}

BOOST_AUTO_TEST_CASE(the_ledger_names_every_byte_once) {
  fixture f;
  const auto ledger =
      f.group.on_rank(0, [](model::model_runner& runner) { return runner.ledger(); });
  for (const char* arena : {"weights/", "kv_cache/", "activations/", "input/", "output/"})
    BOOST_TEST(std::any_of(ledger.begin(), ledger.end(),
                           [&](const auto& entry) { return entry.owner.starts_with(arena); }),
               "the ledger has no entry of " << arena);
  const auto& limits = f.group.limits();
  const auto& text = f.group.checkpoint().model.text;
  int64_t cache_bytes = 0;
  for (const auto& entry : ledger)
    if (entry.owner.starts_with("kv_cache/")) cache_bytes += entry.bytes;
  BOOST_TEST(cache_bytes == int64_t{2} * text.num_hidden_layers * text.kv_width() *
                                limits.block_size * limits.num_blocks * int64_t{sizeof(float)});
}
