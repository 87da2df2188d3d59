#include "model/plan/sequence_blocks.hpp"

#include <boost/test/unit_test.hpp>

#include <numeric>

namespace plan = troupe::plan;

namespace {

constexpr int32_t block_size = 4;

std::vector<int32_t> tokens_from(int32_t first, size_t count) {
  std::vector<int32_t> tokens(count);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

struct fixture {
  plan::block_pool pool{12, block_size, {.key = 1}};
  plan::visual_layout text;
  std::vector<plan::prefix_link> chain;

  plan::sequence_content content(const std::vector<int32_t>& tokens) const {
    return {.tokens = tokens, .visual = text};
  }
  /// A sequence that computed `tokens` and holds its blocks.
  plan::sequence_blocks computed(const std::vector<int32_t>& tokens) {
    plan::sequence_blocks blocks;
    BOOST_REQUIRE(blocks.grow(pool, (static_cast<int32_t>(tokens.size()) + 3) / block_size));
    blocks.publish(pool, content(tokens), static_cast<int32_t>(tokens.size()));
    return blocks;
  }
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(sequence_blocks, fixture)

BOOST_AUTO_TEST_CASE(a_second_sequence_shares_the_full_blocks_of_a_common_prefix) {
  auto tokens = tokens_from(0, 11);
  auto first = computed(tokens);
  BOOST_TEST(first.num_published() == 2);
  auto other = tokens;
  other[9] = 77;  // behind the last full block
  plan::sequence_blocks second;
  second.find_prefix(pool, content(other), 2, chain);
  BOOST_REQUIRE(chain.size() == 2U);
  second.adopt(pool, chain);
  BOOST_TEST(second.blocks()[0] == first.blocks()[0]);
  BOOST_TEST(second.blocks()[1] == first.blocks()[1]);
  BOOST_TEST(pool.holders(first.blocks()[0]) == 2);
  second.release(pool);
  first.release(pool);
  BOOST_TEST(pool.num_held() == 0);
  BOOST_TEST(pool.num_cached() == 2);
}

BOOST_AUTO_TEST_CASE(a_prefix_ends_at_the_first_difference) {
  const auto tokens = tokens_from(0, 12);
  auto first = computed(tokens);
  auto other = tokens;
  other[4] = 77;  // the third block is equal, but not what comes before it
  plan::sequence_blocks second;
  second.find_prefix(pool, content(other), 3, chain);
  BOOST_TEST(chain.size() == 1U);
  first.release(pool);
}

BOOST_AUTO_TEST_CASE(only_full_computed_blocks_are_published) {
  const auto tokens = tokens_from(0, 12);
  plan::sequence_blocks blocks;
  BOOST_REQUIRE(blocks.grow(pool, 3));
  blocks.publish(pool, content(tokens), 7);
  BOOST_TEST(blocks.num_published() == 1);
  blocks.publish(pool, content(tokens), 8);
  BOOST_TEST(blocks.num_published() == 2);
  blocks.release(pool);
}

BOOST_AUTO_TEST_CASE(eviction_takes_the_end_of_a_prefix_before_its_beginning) {
  const auto tokens = tokens_from(0, 12);
  auto blocks = computed(tokens);
  const auto held = blocks.blocks();
  blocks.release(pool);
  plan::sequence_blocks other;
  BOOST_REQUIRE(other.grow(pool, 8 + 1));  // 8 were free
  BOOST_TEST(other.blocks().back() == held[2]);
  plan::sequence_blocks again;
  again.find_prefix(pool, content(tokens), 3, chain);
  BOOST_TEST(chain.size() == 2U);
  other.release(pool);
}

BOOST_AUTO_TEST_CASE(an_equal_block_computed_twice_stays_private_the_second_time) {
  const auto tokens = tokens_from(0, 8);
  auto first = computed(tokens);
  auto second = computed(tokens);
  BOOST_TEST(second.num_published() == 2);
  BOOST_TEST(pool.prefixes().num_published() == 2);
  second.release(pool);
  BOOST_TEST(pool.num_cached() == 0);
  first.release(pool);
  BOOST_TEST(pool.num_cached() == 2);
}

BOOST_AUTO_TEST_CASE(a_withdrawn_sequence_leaves_nothing_in_the_cache) {
  const auto tokens = tokens_from(0, 8);
  auto blocks = computed(tokens);
  blocks.withdraw(pool);
  blocks.release(pool);
  BOOST_TEST(pool.num_free() == pool.num_total());
}

BOOST_AUTO_TEST_CASE(growth_fails_when_the_pool_is_empty_and_keeps_what_it_has) {
  plan::sequence_blocks blocks;
  BOOST_TEST(!blocks.grow(pool, 12));
  BOOST_TEST(blocks.size() == 11);
  blocks.release(pool);
  BOOST_TEST(pool.num_free() == 11);
}

BOOST_AUTO_TEST_SUITE_END()
