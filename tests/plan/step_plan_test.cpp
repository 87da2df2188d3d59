#include "model/plan/step_plan.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <functional>
#include <limits>
#include <ostream>

namespace plan = troupe::plan;
namespace data = boost::unit_test::data;

namespace {

plan::plan_limits small_limits() {
  plan::plan_limits limits;
  limits.max_num_seqs = 4;
  limits.max_num_batched_tokens = 16;
  limits.max_blocks_per_sequence = 4;
  limits.block_size = 4;
  limits.num_blocks = 10;
  limits.visual_pool_rows = 8;
  limits.max_adjustments = 3;
  limits.vocab_size = 100;
  limits.max_model_len = 16;
  limits.token_buckets = plan::make_token_buckets(16);
  return limits;
}

/// A prompt of 5 tokens with a picture in tokens 1..3, and a decode at token 6.
plan::step_plan mixed_plan() {
  plan::step_plan step;
  step.epoch = 1;
  step.step = 2;
  step.bucket_tokens = 8;
  step.token_ids = {1, 9, 9, 9, 2, -1};
  step.positions = {0, 1, 1, 1, 4, 6, 0, 1, 1, 1, 4, 6, 0, 1, 2, 3, 4, 6};
  step.slot_mapping = {4, 5, 6, 7, 8, 14};
  step.row_map = {-1, 5, 6, 7, -1, -1};
  step.query_start = {0, 5, 6};
  step.context_lengths = {5, 7};
  step.max_blocks_per_sequence = 4;
  step.block_tables = {1, 2, 0, 0, 7, 3, 0, 0};
  step.logit_rows = {4, 5};
  step.sampling.resize(2);
  step.adjustments = {{.row = 0, .token = 3, .bias = 1}, {.row = 1, .token = 4, .seen = 1}};
  step.content = plan::compute_digest(step);
  return step;
}

/// One way to break `mixed_plan`, and what must be said about it.
struct damage {
  const char* name;
  std::function<void(plan::step_plan&)> apply;
  const char* expected;
};
std::ostream& operator<<(std::ostream& out, const damage& d) {
  return out << d.name;
}

constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

const std::vector<damage> damages = {
    {"epoch", [](auto& p) { p.epoch = 0; }, "epoch is 0, expected at least 1"},
    {"step", [](auto& p) { p.step = 0; }, "step is 0, expected at least 1"},
    {"no bucket", [](auto& p) { p.bucket_tokens = 7; }, "bucket_tokens is 7, which is no bucket"},
    {"small bucket", [](auto& p) { p.bucket_tokens = 4; }, "6 tokens do not fit the bucket of 4"},
    {"token id", [](auto& p) { p.token_ids[1] = 100; }, "token_ids[1] is 100, expected -4 to 99"},
    {"row of the step before", [](auto& p) { p.token_ids[5] = -5; },
     "token_ids[5] is -5, expected -4 to 99"},
    {"row before the first step", [](auto& p) { p.step = 1; },
     "token_ids[5] is -1, expected 0 to 99"},
    {"position",
     [](auto& p) {
       p.positions[0] = 16;
       p.positions[3] = -1;
     },
     "positions[0] is 16, expected 0 to 15 (1 more)"},
    {"row map", [](auto& p) { p.row_map[2] = 8; }, "row_map[2] is 8, expected -1 to 7"},
    {"position count", [](auto& p) { p.positions.pop_back(); },
     "positions has 17 entries, expected 18"},
    {"slot count", [](auto& p) { p.slot_mapping.push_back(1); },
     "slot_mapping has 7 entries, expected 6"},
    {"row map count", [](auto& p) { p.row_map.clear(); }, "row_map has 0 entries, expected 6"},
    {"query start count", [](auto& p) { p.query_start.clear(); },
     "query_start has 0 entries, expected 3"},
    {"sampling count", [](auto& p) { p.sampling.clear(); }, "sampling has 0 entries, expected 2"},
    {"table width", [](auto& p) { p.max_blocks_per_sequence = 5; },
     "max_blocks_per_sequence is 5, expected 1 to 4"},
    {"table count", [](auto& p) { p.block_tables.pop_back(); },
     "block_tables has 7 entries, expected 8"},
    {"query start", [](auto& p) { p.query_start[0] = 1; }, "query_start[0] is 1, expected 0"},
    {"query start order", [](auto& p) { p.query_start[1] = 6; }, "query_start is not ascending"},
    {"query end", [](auto& p) { p.query_start[2] = 9; },
     "query_start ends at 9, expected 6 tokens"},
    {"short context", [](auto& p) { p.context_lengths[0] = 4; },
     "context_lengths[0] is 4, expected 5 (its new tokens) to 16"},
    {"long context", [](auto& p) { p.context_lengths[1] = 17; },
     "context_lengths[1] is 17, expected 1 (its new tokens) to 16"},
    {"block 0", [](auto& p) { p.block_tables[1] = 0; },
     "block table 0 has block 0 at 1, expected 1 to 9"},
    {"block outside", [](auto& p) { p.block_tables[4] = 10; },
     "block table 1 has block 10 at 0, expected 1 to 9"},
    {"stale block", [](auto& p) { p.block_tables[6] = 5; },
     "block table 1 has block 5 at 2, expected 0 past its 2 blocks"},
    {"slot", [](auto& p) { p.slot_mapping[5] = 13; },
     "slot_mapping[5] is 13, the block table says 14"},
    {"two writers",
     [](auto& p) {
       p.block_tables[5] = 2;
       p.slot_mapping[5] = 10;
     },
     "block 2 is written at two places of the step"},
    {"logit row", [](auto& p) { p.logit_rows[1] = 6; }, "logit_rows[1] is 6, expected 0 to 5"},
    {"logit row order", [](auto& p) { p.logit_rows[0] = 5; }, "logit_rows are not ascending"},
    {"temperature", [](auto& p) { p.sampling[1].temperature = not_a_number; },
     "sampling[1].temperature is nan, expected 0 to 2"},
    {"top_k", [](auto& p) { p.sampling[0].top_k = -1; },
     "sampling[0].top_k is -1, expected 0 or more"},
    {"logprobs", [](auto& p) { p.sampling[0].num_logprobs = 21; },
     "sampling[0].num_logprobs is 21, expected -1 to 20"},
    {"input index", [](auto& p) { p.sampling[0].input_index = 6; },
     "sampling[0].input_index is 6, expected -1 to 5"},
    {"sampled place", [](auto& p) { p.sampling[0].position = -1; },
     "sampling[0].position is -1, expected 0 to 16"},
    {"adjustment order", [](auto& p) { std::swap(p.adjustments[0], p.adjustments[1]); },
     "adjustments[1] is of row 0 behind row 1, expected ascending rows"},
    {"adjusted token", [](auto& p) { p.adjustments[1].token = 100; },
     "adjustments[1] is row 1 token 100 count 0 seen 1 bias 0, expected row 0 to 1, token 0 to 99, "
     "count 0 or more, seen 0 or 1, finite bias"},
    {"cleared block",
     [](auto& p) {
       p.cleared_blocks = {1, 0};
     },
     "cleared_blocks[1] is 0, expected 1 to 9"},
    {"too many adjustments", [](auto& p) { p.adjustments.resize(4); },
     "4 adjustments, expected 0 to 3"},
};

/// Everything that a digest must notice.
const std::vector<damage> changes = {
    {"epoch", [](auto& p) { ++p.epoch; }, ""},
    {"step", [](auto& p) { ++p.step; }, ""},
    {"bucket", [](auto& p) { ++p.bucket_tokens; }, ""},
    {"token", [](auto& p) { ++p.token_ids[5]; }, ""},
    {"position", [](auto& p) { ++p.positions[17]; }, ""},
    {"slot", [](auto& p) { ++p.slot_mapping[0]; }, ""},
    {"row map", [](auto& p) { p.row_map[0] = 0; }, ""},
    {"query start", [](auto& p) { ++p.query_start[1]; }, ""},
    {"context", [](auto& p) { ++p.context_lengths[1]; }, ""},
    {"table", [](auto& p) { p.block_tables[7] = 1; }, ""},
    {"logit row", [](auto& p) { --p.logit_rows[0]; }, ""},
    {"seed", [](auto& p) { p.sampling[1].seed = 1; }, ""},
    {"adjustment", [](auto& p) { p.adjustments[1].bias = 1; }, ""},
    {"cleared block", [](auto& p) { p.cleared_blocks = {1}; }, ""},
    {"moved between arrays",
     [](auto& p) {
       p.slot_mapping.push_back(p.row_map.front());
       p.row_map.erase(p.row_map.begin());
     },
     ""},
};

}  // namespace

BOOST_AUTO_TEST_SUITE(step_plan)

BOOST_AUTO_TEST_CASE(a_sound_plan_has_no_faults) {
  BOOST_TEST(plan::faults(mixed_plan(), small_limits()) == std::vector<std::string>(),
             boost::test_tools::per_element());
}

BOOST_DATA_TEST_CASE(every_damage_is_named, data::make(damages), broken) {
  auto step = mixed_plan();
  broken.apply(step);
  step.content = plan::compute_digest(step);
  const auto found = plan::faults(step, small_limits());
  BOOST_TEST_CONTEXT("found: " << (found.empty() ? "nothing" : found.front()))
  BOOST_TEST(std::count(found.begin(), found.end(), broken.expected) == 1);
}

BOOST_AUTO_TEST_CASE(an_empty_plan_is_refused) {
  BOOST_TEST(!plan::faults({}, small_limits()).empty());
}

BOOST_DATA_TEST_CASE(the_digest_notices_every_change, data::make(changes), changed) {
  auto step = mixed_plan();
  changed.apply(step);
  BOOST_TEST(!(plan::compute_digest(step) == step.content));
}

BOOST_AUTO_TEST_CASE(a_digest_that_is_not_the_contents_is_a_fault) {
  auto step = mixed_plan();
  step.content.low ^= 1;
  const auto found = plan::faults(step, small_limits());
  BOOST_REQUIRE(found.size() == 1U);
  BOOST_TEST(found[0].starts_with("digest is "));
}

BOOST_AUTO_TEST_CASE(buckets_grow_by_halves_and_end_at_the_largest_step) {
  const std::vector<int32_t> expected = {1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 100};
  BOOST_TEST(plan::make_token_buckets(100) == expected, boost::test_tools::per_element());
  BOOST_TEST(plan::make_token_buckets(1) == std::vector<int32_t>({1}),
             boost::test_tools::per_element());
  BOOST_TEST(plan::make_token_buckets(96).back() == 96);
  const std::vector<int32_t> quarters{192, 256, 320, 384, 448, 512, 640, 700};
  const auto buckets = plan::make_token_buckets(700);
  BOOST_TEST(std::vector<int32_t>(buckets.end() - 8, buckets.end()) == quarters,
             boost::test_tools::per_element());
}

BOOST_AUTO_TEST_CASE(the_smallest_bucket_that_holds_the_tokens_is_taken) {
  const auto limits = small_limits();
  BOOST_TEST(limits.bucket_for(1) == 1);
  BOOST_TEST(limits.bucket_for(5) == 8);
  BOOST_TEST(limits.bucket_for(16) == 16);
}

BOOST_AUTO_TEST_SUITE_END()
