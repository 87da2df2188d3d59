#include "model/plan/visual_layout.hpp"

#include <boost/test/unit_test.hpp>

#include <numeric>

namespace plan = troupe::plan;

namespace {

plan::visual_span span_at(int32_t first_token, int32_t num_tokens, uint8_t item,
                          int32_t first_row = 0) {
  plan::visual_span span;
  span.first_token = first_token;
  span.num_tokens = num_tokens;
  span.first_row = first_row;
  span.grid_height = 1;
  span.grid_width = num_tokens;
  span.digest[0] = item;
  return span;
}

/// Two pictures in a prompt of 16 tokens: tokens 2..5 and 9..11.
plan::visual_layout two_pictures() {
  return plan::visual_layout({span_at(2, 4, 1), span_at(9, 3, 2)});
}

std::vector<int32_t> row_map(const plan::visual_layout& layout, int32_t first, int32_t count) {
  std::vector<int32_t> pool_rows(static_cast<size_t>(layout.num_tokens()));
  std::iota(pool_rows.begin(), pool_rows.end(), 100);
  std::vector<int32_t> map(static_cast<size_t>(count));
  layout.fill_row_map(map, first, pool_rows);
  return map;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(visual_layout)

BOOST_AUTO_TEST_CASE(text_maps_to_no_row) {
  const plan::visual_layout text;
  std::vector<int32_t> map(3, 7);
  text.fill_row_map(map, 0, {});
  BOOST_TEST(map == std::vector<int32_t>({-1, -1, -1}), boost::test_tools::per_element());
  BOOST_TEST(text.end_token() == 0);
  BOOST_TEST(text.num_tokens() == 0);
}

BOOST_AUTO_TEST_CASE(each_visual_token_maps_to_its_own_row) {
  const auto map = row_map(two_pictures(), 0, 13);
  const std::vector<int32_t> expected = {-1, -1, 100, 101, 102, 103, -1, -1, -1, 104, 105, 106, -1};
  BOOST_TEST(map == expected, boost::test_tools::per_element());
}

// F6: a chunk that begins inside a picture must not start at the picture's first row.
BOOST_AUTO_TEST_CASE(chunks_of_every_size_join_to_the_whole_map) {
  const auto layout = two_pictures();
  const auto whole = row_map(layout, 0, 16);
  for (int32_t size = 1; size <= 16; ++size) {
    std::vector<int32_t> joined;
    for (int32_t first = 0; first < 16; first += size) {
      const auto part = row_map(layout, first, std::min(size, 16 - first));
      joined.insert(joined.end(), part.begin(), part.end());
    }
    BOOST_TEST_CONTEXT("chunk size " << size)
    BOOST_TEST(joined == whole, boost::test_tools::per_element());
  }
}

BOOST_AUTO_TEST_CASE(runs_say_what_of_a_picture_lies_in_a_range) {
  const auto layout = two_pictures();
  std::vector<plan::visual_run> runs;
  layout.collect_runs(4, 7, runs);  // tokens 4..10
  BOOST_REQUIRE(runs.size() == 2U);
  BOOST_TEST(runs[0].block_offset == 0);
  BOOST_TEST(runs[0].num_tokens == 2);
  BOOST_TEST(runs[0].first_row == 2);
  BOOST_TEST(runs[1].block_offset == 5);
  BOOST_TEST(runs[1].num_tokens == 2);
  BOOST_TEST(runs[1].first_row == 0);
  BOOST_TEST(int{runs[1].digest[0]} == 2);
  layout.collect_runs(6, 3, runs);
  BOOST_TEST(runs.empty());
}

BOOST_AUTO_TEST_CASE(an_item_that_comes_twice_needs_its_rows_once) {
  const plan::visual_layout clip_and_picture(
      {span_at(0, 4, 1, 0), span_at(5, 4, 1, 4), span_at(10, 3, 2), span_at(14, 3, 2)});
  BOOST_TEST(clip_and_picture.num_tokens() == 14);
  BOOST_TEST(clip_and_picture.num_distinct_rows() == 8 + 3);
}

BOOST_AUTO_TEST_SUITE_END()
