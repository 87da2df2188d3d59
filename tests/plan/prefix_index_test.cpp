#include "model/plan/prefix_index.hpp"

#include <boost/test/unit_test.hpp>

#include <random>

namespace plan = troupe::plan;

namespace {

constexpr int32_t block_size = 4;

using block_tokens = std::vector<int32_t>;

/// An index and the chain walk that its users do.
struct indexed {
  explicit indexed(int32_t bits, int32_t num_blocks = 64)
      : index(num_blocks, block_size, {.key = 7, .bits = bits}) {}

  std::optional<plan::prefix_link> find(plan::prefix_link before, const plan::digest& key_before,
                                        const block_tokens& tokens,
                                        const std::vector<plan::visual_run>& runs = {}) {
    const plan::block_content content{.tokens = tokens, .runs = runs};
    return index.find(before, index.hash(key_before, content), content);
  }
  std::optional<plan::prefix_link> publish(int32_t block, plan::prefix_link before,
                                           const plan::digest& key_before,
                                           const block_tokens& tokens,
                                           const std::vector<plan::visual_run>& runs = {}) {
    const plan::block_content content{.tokens = tokens, .runs = runs};
    return index.publish(block, before, index.hash(key_before, content), content);
  }
  plan::digest key(const plan::digest& before, const block_tokens& tokens) const {
    return index.hash(before, {.tokens = tokens, .runs = {}});
  }

  plan::prefix_index index;
};

constexpr plan::prefix_link root{};
constexpr plan::digest no_key{};

plan::visual_run run_of(uint8_t last_digest_byte, int32_t first_row = 0) {
  plan::visual_run run;
  run.num_tokens = 2;
  run.first_row = first_row;
  run.grid_height = 1;
  run.grid_width = 8;
  run.digest[31] = last_digest_byte;
  return run;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(prefix_index)

BOOST_AUTO_TEST_CASE(finds_what_was_published_and_nothing_else) {
  indexed cache(128);
  const block_tokens first = {1, 2, 3, 4}, second = {5, 6, 7, 8};
  BOOST_TEST(!cache.find(root, no_key, first).has_value());
  const auto link = cache.publish(3, root, no_key, first);
  BOOST_REQUIRE(link.has_value());
  BOOST_TEST(link->block == 3);
  BOOST_TEST((cache.find(root, no_key, first) == link));
  BOOST_TEST(!cache.find(root, no_key, second).has_value());
  const auto key = cache.key(no_key, first);
  BOOST_TEST(!cache.find(*link, key, second).has_value());
  BOOST_TEST((cache.publish(4, *link, key, second)->block == 4));
  BOOST_TEST((cache.find(*link, key, second)->block == 4));
  BOOST_TEST(!cache.find(root, no_key, second).has_value());
}

BOOST_AUTO_TEST_CASE(equal_content_is_published_once) {
  indexed cache(128);
  const block_tokens tokens = {1, 2, 3, 4};
  const auto first = cache.publish(3, root, no_key, tokens);
  const auto again = cache.publish(5, root, no_key, tokens);
  BOOST_TEST((first == again));
  BOOST_TEST(cache.index.published(3));
  BOOST_TEST(!cache.index.published(5));
}

// F22: the same placeholder ids over another picture, another part of it or another shape differ.
BOOST_AUTO_TEST_CASE(pictures_are_told_apart_by_every_field) {
  indexed cache(0);  // every hash is equal: only the comparison is left
  const block_tokens pads = {9, 9, 1, 2};
  cache.publish(1, root, no_key, pads, {run_of(1)});
  BOOST_TEST(cache.find(root, no_key, pads, {run_of(1)}).has_value());
  BOOST_TEST(!cache.find(root, no_key, pads, {}).has_value());
  BOOST_TEST(!cache.find(root, no_key, pads, {run_of(2)}).has_value());
  BOOST_TEST(!cache.find(root, no_key, pads, {run_of(1, 4)}).has_value());
  auto other_shape = run_of(1);
  std::swap(other_shape.grid_height, other_shape.grid_width);
  BOOST_TEST(!cache.find(root, no_key, pads, {other_shape}).has_value());
}

BOOST_AUTO_TEST_CASE(a_withdrawn_block_and_what_follows_it_are_not_found) {
  indexed cache(128);
  const block_tokens first = {1, 2, 3, 4}, second = {5, 6, 7, 8};
  const auto key = cache.key(no_key, first);
  const auto link = cache.publish(3, root, no_key, first);
  cache.publish(4, *link, key, second);
  cache.index.withdraw(3);
  BOOST_TEST(!cache.find(root, no_key, first).has_value());
  // Behind a prefix that is gone nothing can be published: nobody could find it.
  BOOST_TEST(!cache.publish(5, *link, key, {9, 9, 9, 9}).has_value());
  // A block that takes the same number later is another entry: the old chain does not revive.
  const auto revived = cache.publish(3, root, no_key, first);
  BOOST_TEST((revived != link));
  BOOST_TEST(!cache.find(*revived, key, second).has_value());
  BOOST_TEST(cache.index.check() == "");
}

BOOST_AUTO_TEST_CASE(hashes_depend_on_the_secret_key) {
  const plan::prefix_index one(2, block_size, {.key = 1}), two(2, block_size, {.key = 2});
  const block_tokens tokens = {1, 2, 3, 4};
  BOOST_TEST(!(one.hash(no_key, {.tokens = tokens, .runs = {}}) ==
               two.hash(no_key, {.tokens = tokens, .runs = {}})));
  BOOST_TEST(plan::random_prefix_hashing().key != plan::random_prefix_hashing().key);
}

// Robustness C6: with almost all hashes colliding there is still no wrong hit and no missed one.
BOOST_AUTO_TEST_CASE(eight_bit_hashes_never_give_a_wrong_hit) {
  for (const int32_t bits : {0, 1, 8}) {
    constexpr int32_t num_blocks = 600;
    indexed cache(bits, num_blocks);
    struct node {
      plan::prefix_link link;
      plan::digest key;
      plan::prefix_link before;
      plan::digest key_before;
      block_tokens tokens;
    };
    std::vector<node> nodes = {{}};
    std::mt19937 random(42);
    for (int32_t block = 1; block < num_blocks; ++block) {
      const auto parent = nodes[random() % nodes.size()];
      block_tokens tokens(block_size);
      for (auto& token : tokens) token = static_cast<int32_t>(random() % 3);
      const auto link = cache.publish(block, parent.link, parent.key, tokens);
      BOOST_REQUIRE(link.has_value());
      if (link->block != block) continue;  // the same block came up before
      nodes.push_back({*link, cache.key(parent.key, tokens), parent.link, parent.key, tokens});
    }
    BOOST_TEST(cache.index.check() == "");
    BOOST_TEST(std::ssize(nodes) > num_blocks / 2);
    for (size_t i = 1; i < nodes.size(); ++i) {
      const auto& node = nodes[i];
      BOOST_TEST((cache.find(node.before, node.key_before, node.tokens) == node.link));
      auto other = node.tokens;
      other[random() % block_size] = 3;  // no published block has this token
      BOOST_TEST(!cache.find(node.before, node.key_before, other).has_value());
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
