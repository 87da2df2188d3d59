#include "model/plan/block_pool.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <set>

namespace plan = troupe::plan;

namespace {

constexpr int32_t block_size = 2;

struct pool_of {
  explicit pool_of(int32_t num_blocks) : pool(num_blocks, block_size, {.key = 1}) {}

  int32_t take() {
    const auto block = pool.allocate();
    BOOST_REQUIRE(block.has_value());
    return *block;
  }
  /// Publishes `block` as a first block with these tokens.
  void publish(int32_t block, int32_t token) {
    const std::vector<int32_t> tokens = {token, token};
    const plan::block_content content{.tokens = tokens, .runs = {}};
    BOOST_REQUIRE(pool.publish(block, {}, pool.prefixes().hash({}, content), content).has_value());
  }
  std::optional<plan::prefix_link> find(int32_t token) const {
    const std::vector<int32_t> tokens = {token, token};
    const plan::block_content content{.tokens = tokens, .runs = {}};
    return pool.prefixes().find({}, pool.prefixes().hash({}, content), content);
  }

  plan::block_pool pool;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(block_pool)

BOOST_AUTO_TEST_CASE(hands_out_every_block_but_0_and_then_none) {
  pool_of blocks(5);
  std::set<int32_t> taken;
  for (int32_t i = 0; i < 4; ++i) taken.insert(blocks.take());
  BOOST_TEST(taken == std::set<int32_t>({1, 2, 3, 4}), boost::test_tools::per_element());
  BOOST_TEST(!blocks.pool.allocate().has_value());
  BOOST_TEST(blocks.pool.num_held() == 4);
  BOOST_TEST(blocks.pool.num_available() == 0);
}

BOOST_AUTO_TEST_CASE(a_shared_block_is_free_after_its_last_holder) {
  pool_of blocks(3);
  const int32_t block = blocks.take();
  blocks.pool.share(block);
  blocks.pool.release(block);
  BOOST_TEST(blocks.pool.num_held() == 1);
  blocks.pool.release(block);
  BOOST_TEST(blocks.pool.num_free() == 2);
}

BOOST_AUTO_TEST_CASE(a_published_block_is_kept_until_it_is_needed_oldest_first) {
  pool_of blocks(4);
  const int32_t a = blocks.take(), b = blocks.take(), c = blocks.take();
  blocks.publish(a, 1);
  blocks.publish(b, 2);
  blocks.publish(c, 3);
  blocks.pool.release(b);
  blocks.pool.release(a);
  blocks.pool.release(c);
  BOOST_TEST(blocks.pool.num_cached() == 3);
  BOOST_TEST(blocks.take() == b);
  BOOST_TEST(!blocks.find(2).has_value());
  BOOST_TEST(blocks.find(1).has_value());
  // A hit makes it the most recently used one.
  blocks.pool.share(a);
  blocks.pool.release(a);
  BOOST_TEST(blocks.take() == c);
  BOOST_TEST(blocks.find(1).has_value());
}

BOOST_AUTO_TEST_CASE(a_withdrawn_block_is_free_after_its_last_holder) {
  pool_of blocks(3);
  const int32_t block = blocks.take();
  blocks.publish(block, 1);
  blocks.pool.withdraw(block);
  BOOST_TEST(!blocks.find(1).has_value());
  const std::vector<int32_t> tokens = {1, 1};
  const plan::block_content content{.tokens = tokens, .runs = {}};
  const auto key = blocks.pool.prefixes().hash({}, content);
  BOOST_TEST(!blocks.pool.publish(block, {}, key, content).has_value());  // it may be wrong
  BOOST_TEST(!blocks.find(1).has_value());
  BOOST_TEST(blocks.pool.take_blocks_to_clear().empty());  // it is held still
  blocks.pool.release(block);
  BOOST_TEST(blocks.pool.take_blocks_to_clear() == std::vector<int32_t>({block}),
             boost::test_tools::per_element());
  BOOST_TEST(blocks.pool.take_blocks_to_clear().empty());
  BOOST_TEST(blocks.pool.num_free() == 2);
  BOOST_TEST(blocks.pool.num_cached() == 0);
}

BOOST_AUTO_TEST_CASE(distrusted_blocks_are_free_and_to_be_cleared) {
  pool_of blocks(5);
  const int32_t held = blocks.take();
  const int32_t cached = blocks.take();
  const int32_t withdrawn = blocks.take();
  const int32_t never_used = 4;
  blocks.publish(cached, 1);
  blocks.pool.release(cached);
  blocks.pool.withdraw(withdrawn);
  blocks.pool.release(withdrawn);
  blocks.pool.distrust();
  BOOST_TEST(blocks.pool.num_free() == never_used);
  BOOST_TEST(!blocks.find(1).has_value());
  auto to_clear = blocks.pool.take_blocks_to_clear();
  std::sort(to_clear.begin(), to_clear.end());
  BOOST_TEST(to_clear == std::vector<int32_t>({held, cached, withdrawn}),
             boost::test_tools::per_element());
  BOOST_TEST(blocks.pool.check({0, 0, 0, 0, 0}) == "");
}

BOOST_AUTO_TEST_CASE(reset_frees_everything) {
  pool_of blocks(4);
  const int32_t a = blocks.take();
  blocks.take();
  blocks.publish(a, 1);
  blocks.pool.release(a);
  blocks.pool.reset();
  BOOST_TEST(blocks.pool.num_free() == 3);
  BOOST_TEST(!blocks.find(1).has_value());
  BOOST_TEST(blocks.pool.check({0, 0, 0, 0}) == "");
}

BOOST_AUTO_TEST_CASE(check_compares_holders) {
  pool_of blocks(4);
  const int32_t block = blocks.take();
  BOOST_REQUIRE(block == 1);
  BOOST_TEST(blocks.pool.check({0, 1, 0, 0}) == "");
  BOOST_TEST(blocks.pool.check({0, 2, 0, 0}) == "block 1 has 1 holders, expected 2");
  BOOST_TEST(blocks.pool.check({0, 1, 1, 0}) == "block 2 has 0 holders, expected 1");
}

BOOST_AUTO_TEST_SUITE_END()
