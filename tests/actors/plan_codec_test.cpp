#include "actors/plan_codec.hpp"

#include <boost/test/unit_test.hpp>

#include <random>
#include <string>

using namespace troupe;
using actors::decode_plan;
using actors::encode_plan;

namespace {

/// A plan of two sequences with everything in it; block tables are padded as the planner pads them.
plan::step_plan example() {
  plan::step_plan plan;
  plan.epoch = 3;
  plan.step = 17;
  plan.bucket_tokens = 4;
  plan.token_ids = {5, -1, 7};
  plan.positions = {0, 1, 2, 0, 1, 2, 0, 1, 2};
  plan.slot_mapping = {16, 17, 33};
  plan.row_map = {-1, 4, -1};
  plan.query_start = {0, 2, 3};
  plan.context_lengths = {18, 34};
  plan.max_blocks_per_sequence = 64;
  plan.block_tables.assign(2 * 64, 0);
  plan.block_tables[0] = 1;
  plan.block_tables[1] = 9;
  plan.block_tables[64] = 2;
  plan.logit_rows = {1, 2};
  plan.sampling.resize(2);
  plan.sampling[1].temperature = 0.5F;
  plan.sampling[1].seed = 0xfedcba9876543210U;
  plan.adjustments = {{0, 3, 2, 1, -0.25F}};
  plan.cleared_blocks = {4, 2};
  plan.content = plan::compute_digest(plan);
  return plan;
}

void check_equal(const plan::step_plan& a, const plan::step_plan& b) {
  BOOST_TEST(a.epoch == b.epoch);
  BOOST_TEST(a.step == b.step);
  BOOST_TEST(a.bucket_tokens == b.bucket_tokens);
  BOOST_TEST(a.token_ids == b.token_ids);
  BOOST_TEST(a.positions == b.positions);
  BOOST_TEST(a.slot_mapping == b.slot_mapping);
  BOOST_TEST(a.row_map == b.row_map);
  BOOST_TEST(a.query_start == b.query_start);
  BOOST_TEST(a.context_lengths == b.context_lengths);
  BOOST_TEST(a.block_tables == b.block_tables);
  BOOST_TEST(a.max_blocks_per_sequence == b.max_blocks_per_sequence);
  BOOST_TEST(a.logit_rows == b.logit_rows);
  BOOST_TEST((a.sampling == b.sampling));
  BOOST_TEST((a.adjustments == b.adjustments));
  BOOST_TEST(a.cleared_blocks == b.cleared_blocks, boost::test_tools::per_element());
  BOOST_TEST((a.content == b.content));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(plan_codec)

BOOST_AUTO_TEST_CASE(a_plan_comes_back_with_its_digest) {
  const auto plan = example();
  const auto decoded = decode_plan(encode_plan(plan));
  BOOST_REQUIRE(decoded.has_value());
  check_equal(*decoded, plan);
  BOOST_TEST((plan::compute_digest(*decoded) == plan.content));
}

BOOST_AUTO_TEST_CASE(an_empty_plan_comes_back) {
  const auto decoded = decode_plan(encode_plan({}));
  BOOST_REQUIRE(decoded.has_value());
  check_equal(*decoded, {});
}

BOOST_AUTO_TEST_CASE(padding_is_not_sent) {
  auto plan = example();
  const auto bytes = encode_plan(plan).size();
  plan.max_blocks_per_sequence = 8192;
  plan.block_tables.assign(2 * 8192, 0);
  plan.block_tables[0] = 1;
  plan.block_tables[1] = 9;
  plan.block_tables[8192] = 2;
  BOOST_TEST(encode_plan(plan).size() == bytes);
}

BOOST_AUTO_TEST_CASE(every_cut_and_every_extra_byte_is_refused) {
  const auto bytes = encode_plan(example());
  for (size_t length = 0; length < bytes.size(); ++length)
    BOOST_TEST(!decode_plan(std::string_view(bytes).substr(0, length)).has_value());
  BOOST_TEST(!decode_plan(bytes + '\0').has_value());
}

BOOST_AUTO_TEST_CASE(a_block_table_wider_than_the_bound_is_refused_before_it_is_made) {
  plan::step_plan plan;
  plan.max_blocks_per_sequence = 1 << 30;
  auto bytes = encode_plan(plan);
  // The number of rows follows max_blocks_per_sequence, which is the last of its kind: claim 4 G rows.
  const std::string width("\x00\x00\x00\x40", 4);
  const auto at = bytes.find(width) + width.size();
  bytes.replace(at, 4, std::string(4, '\xff'));
  BOOST_TEST(!decode_plan(bytes).has_value());
}

BOOST_AUTO_TEST_CASE(damaged_bytes_never_decode_to_a_plan_of_another_shape_unnoticed) {
  const auto plan = example();
  const auto bytes = encode_plan(plan);
  std::mt19937_64 random(7);
  int32_t decoded_count = 0;
  for (int32_t i = 0; i < 20'000; ++i) {
    auto damaged = bytes;
    damaged[random() % damaged.size()] ^= static_cast<char>(1 + random() % 255);
    const auto decoded = decode_plan(damaged);
    if (!decoded) continue;
    ++decoded_count;
    // What still decodes is told from the original by its digest, or differs only in the digest itself.
    BOOST_TEST((plan::compute_digest(*decoded) != decoded->content || decoded->content != plan.content));
  }
  BOOST_TEST(decoded_count > 0);
}

BOOST_AUTO_TEST_SUITE_END()
