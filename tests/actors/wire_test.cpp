#include "actors/engine_messages.hpp"
#include "actors/errors.hpp"
#include "actors/system.hpp"

#include <boost/test/unit_test.hpp>
#include <caf/actor_system.hpp>
#include <caf/binary_deserializer.hpp>
#include <caf/binary_serializer.hpp>
#include <caf/message.hpp>

#include <vector>

using namespace troupe;

namespace {

struct wire {
  wire() : system(config) {}

  /// Sends a message as the middleman would: through bytes, under its registered name.
  template <class T>
  T through(const T& value) {
    std::vector<char> bytes;
    caf::binary_serializer sink(system, bytes);
    auto message = caf::make_message(value);
    const auto written = sink(message);
    BOOST_REQUIRE_MESSAGE(!written, actors::describe(written));
    caf::message received;
    caf::binary_deserializer source(system, bytes);
    const auto read = source(received);
    BOOST_REQUIRE_MESSAGE(!read, actors::describe(read));
    BOOST_REQUIRE(received.match_elements<T>());
    return received.get_as<T>(0);
  }

  actors::system_config config;
  caf::actor_system system;
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(messages_between_processes, wire)

BOOST_AUTO_TEST_CASE(open_shard_arrives_whole) {
  actors::open_shard sent;
  auto& options = sent.options;
  options.weights = {"/models/tiny", "2b", 9};
  options.limits.max_num_seqs = 8;
  options.limits.max_num_batched_tokens = 128;
  options.limits.max_blocks_per_sequence = 64;
  options.limits.block_size = 16;
  options.limits.num_blocks = 99;
  options.limits.visual_pool_rows = 1024;
  options.limits.max_adjustments = 640;
  options.limits.vocab_size = 640;
  options.limits.max_model_len = 1'000;
  options.limits.token_buckets = {1, 2, 128};
  options.activation = gpu::dtype::f32;
  options.tp_rank = 1;
  options.tp_size = 2;
  options.epoch = 7;
  options.eager = true;
  options.backend.num_threads = 3;
  options.collective_timeout_ms = 1'234;
  options.lanes = {{"text", 4'096}};
  options.symmetric_descriptors = {6, 7};
  options.visual_pool_descriptor = 5;
  options.token_mask = {1, 0, 1};
  options.alone = true;
  const auto got = through(sent).options;
  BOOST_TEST(got.weights.folder == "/models/tiny");
  BOOST_TEST(got.weights.shape == "2b");
  BOOST_TEST(got.weights.seed == 9U);
  BOOST_TEST(got.limits.max_num_seqs == 8);
  BOOST_TEST(got.limits.max_num_batched_tokens == 128);
  BOOST_TEST(got.limits.max_blocks_per_sequence == 64);
  BOOST_TEST(got.limits.block_size == 16);
  BOOST_TEST(got.limits.num_blocks == 99);
  BOOST_TEST(got.limits.visual_pool_rows == 1024);
  BOOST_TEST(got.limits.max_adjustments == 640);
  BOOST_TEST(got.limits.vocab_size == 640);
  BOOST_TEST(got.limits.max_model_len == 1'000);
  BOOST_TEST((got.limits.token_buckets == std::vector<int32_t>{1, 2, 128}));
  BOOST_TEST((got.activation == gpu::dtype::f32));
  BOOST_TEST(got.tp_rank == 1);
  BOOST_TEST(got.tp_size == 2);
  BOOST_TEST(got.epoch == 7U);
  BOOST_TEST(got.eager);
  BOOST_TEST(got.backend.num_threads == 3);
  BOOST_TEST(got.collective_timeout_ms == 1'234);
  BOOST_REQUIRE(got.lanes.size() == 1);
  BOOST_TEST(got.lanes[0].name == "text");
  BOOST_TEST(got.lanes[0].slot_bytes == 4'096);
  BOOST_TEST((got.symmetric_descriptors == std::vector<int>{6, 7}));
  BOOST_TEST(got.visual_pool_descriptor == 5);
  BOOST_TEST((got.token_mask == std::vector<uint8_t>{1, 0, 1}));
  BOOST_TEST(got.alone);
}

BOOST_AUTO_TEST_CASE(what_a_kept_rank_is_told_arrives) {
  const auto joining = through(actors::join_group{7, {9, 8, 6}});
  BOOST_TEST(joining.epoch == 7U);
  BOOST_TEST((joining.symmetric_descriptors == std::vector<int>{9, 8, 6}));
  through(actors::count_anew{});
}

BOOST_AUTO_TEST_CASE(what_a_shard_says_while_it_opens_arrives) {
  const auto opened = through(actors::shard_opened{{0x1234567890abcdefU, 5}});
  BOOST_TEST((opened.graphs == gpu::digest128{0x1234567890abcdefU, 5}));
  const auto got = through(actors::shard_progress{2, {"loading weights", 12.5, 3, 24, true}});
  BOOST_TEST(got.tp_rank == 2);
  BOOST_TEST(got.progress.phase == "loading weights");
  BOOST_TEST(got.progress.percent == 12.5);
  BOOST_TEST(got.progress.done == 3);
  BOOST_TEST(got.progress.total == 24);
  BOOST_TEST(got.progress.counts_bytes);
}

BOOST_AUTO_TEST_CASE(a_step_arrives_with_its_digest) {
  plan::step_plan plan;
  plan.epoch = 2;
  plan.step = 5;
  plan.bucket_tokens = 1;
  plan.token_ids = {42};
  plan.max_blocks_per_sequence = 4;
  plan.block_tables = {3, 0, 0, 0};
  plan.content = plan::compute_digest(plan);
  const auto got = through(
      actors::run_step{std::make_shared<const plan::step_plan>(plan), actors::step_order::verified});
  BOOST_TEST((got.order == actors::step_order::verified));
  BOOST_REQUIRE(got.plan != nullptr);
  BOOST_TEST((plan::compute_digest(*got.plan) == plan.content));
  BOOST_TEST(got.plan->block_tables == plan.block_tables);
}

BOOST_AUTO_TEST_CASE(a_result_arrives_whole) {
  actors::step_completed sent;
  sent.result = {2, 5, {7, 8}, {42, -1}, {{-0.5F, {1, 2}, {-0.5F, -1.5F}}, {}}, 999};
  sent.graph_captures_after_start = 3;
  sent.arena_allocations_after_start = 4;
  sent.difference = "row 0 has other logits";
  const auto got = through(sent);
  BOOST_TEST(got.result.epoch == 2U);
  BOOST_TEST(got.result.step == 5U);
  BOOST_TEST((got.result.content == sent.result.content));
  BOOST_TEST(got.result.tokens == sent.result.tokens);
  BOOST_TEST((got.result.logprobs == sent.result.logprobs));
  BOOST_TEST(got.result.elapsed_ns == 999);
  BOOST_TEST(got.graph_captures_after_start == 3);
  BOOST_TEST(got.arena_allocations_after_start == 4);
  BOOST_TEST(got.difference == sent.difference);
}

BOOST_AUTO_TEST_CASE(a_secret_arrives) {
  const std::string secret("\x00\xff secret", 9);
  const auto got = through(actors::open_door{secret, true});
  BOOST_TEST(got.secret == secret);
  BOOST_TEST(got.with_vision_tower);
}

BOOST_AUTO_TEST_CASE(open_vision_tower_arrives_whole) {
  actors::open_vision_tower sent;
  auto& options = sent.options;
  options.weights = {"/models/tiny", "2b", 9};
  options.activation = gpu::dtype::f32;
  options.eager = true;
  options.max_patches = 1024;
  options.max_segments = 16;
  options.backend.num_threads = 3;
  options.backend.background = true;
  options.pool_rows = 512;
  options.visual_pool_descriptor = 5;
  options.staging_descriptor = 6;
  const auto got = through(sent).options;
  BOOST_TEST(got.weights.folder == "/models/tiny");
  BOOST_TEST(got.weights.shape == "2b");
  BOOST_TEST(got.weights.seed == 9U);
  BOOST_TEST((got.activation == gpu::dtype::f32));
  BOOST_TEST(got.eager);
  BOOST_TEST(got.max_patches == 1024);
  BOOST_TEST(got.max_segments == 16);
  BOOST_TEST(got.backend.num_threads == 3);
  BOOST_TEST(got.backend.background);
  BOOST_TEST(got.pool_rows == 512);
  BOOST_TEST(got.visual_pool_descriptor == 5);
  BOOST_TEST(got.staging_descriptor == 6);
}

BOOST_AUTO_TEST_CASE(a_run_of_the_tower_arrives_whole) {
  const auto got = through(actors::encode_media{1, {{{2, 4, 6}, {7, 8, 9}}, {{1, 2, 2}, {3}}}});
  BOOST_TEST(got.slot == 1);
  BOOST_REQUIRE(got.jobs.size() == 2U);
  BOOST_TEST((got.jobs[0].grid == model::patch_grid{2, 4, 6}));
  BOOST_TEST((got.jobs[0].rows == std::vector<int32_t>{7, 8, 9}));
  BOOST_TEST((got.jobs[1].grid == model::patch_grid{1, 2, 2}));
  const auto encoded = through(actors::media_encoded{3, 4, {5, 6}});
  BOOST_TEST(encoded.graph_captures_after_start == 3);
  BOOST_TEST(encoded.arena_allocations_after_start == 4);
  BOOST_TEST(encoded.pacing.slices_issued == 5);
  BOOST_TEST(encoded.pacing.steps_passed_over == 6);
}

BOOST_AUTO_TEST_CASE(an_errors_text_arrives) {
  const auto sent = actors::make_error(actors::engine_error::plan_refused, "step 7, expected step 6");
  std::vector<char> bytes;
  caf::binary_serializer sink(system, bytes);
  caf::error copy = sent;
  BOOST_REQUIRE(!sink(copy));
  caf::error got;
  caf::binary_deserializer source(system, bytes);
  BOOST_REQUIRE(!source(got));
  BOOST_TEST(actors::is(got, actors::engine_error::plan_refused));
  BOOST_TEST(actors::describe(got) == "plan refused: step 7, expected step 6");
}

BOOST_AUTO_TEST_SUITE_END()
