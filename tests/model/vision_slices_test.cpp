#include "model/vision/vision_slices.hpp"
#include "config/model_config.hpp"
#include "model/work_model.hpp"

#include <boost/test/unit_test.hpp>

#include <vector>

using namespace troupe;
using slices = std::vector<model::part_range>;

BOOST_AUTO_TEST_SUITE(vision_slices)

BOOST_AUTO_TEST_CASE(a_slice_takes_parts_while_they_fit) {
  const std::vector<double> flops{1, 2, 2, 1, 4, 1};
  BOOST_TEST((model::cut_slices(flops, 5) == slices{{0, 3}, {3, 5}, {5, 6}}));
  BOOST_TEST((model::cut_slices(flops, 4.9) == slices{{0, 2}, {2, 4}, {4, 5}, {5, 6}}));
  BOOST_TEST((model::cut_slices(flops, 11) == slices{{0, 6}}));
}

BOOST_AUTO_TEST_CASE(a_part_that_is_too_large_is_a_slice_of_its_own) {
  BOOST_TEST((model::cut_slices({1, 9, 1, 1}, 2) == slices{{0, 1}, {1, 2}, {2, 4}}));
  BOOST_TEST((model::cut_slices({9, 9}, 1) == slices{{0, 1}, {1, 2}}));
}

BOOST_AUTO_TEST_CASE(without_a_bound_a_run_is_one_slice) {
  BOOST_TEST((model::cut_slices({1, 9, 1, 1}, 0) == slices{{0, 4}}));
}

BOOST_AUTO_TEST_CASE(slices_are_bounded_unless_a_part_is_far_larger) {
  BOOST_TEST(model::slices_are_bounded({1, 4, 2}, 2));
  BOOST_TEST(!model::slices_are_bounded({1, 4.1, 2}, 2));
  BOOST_TEST(!model::slices_are_bounded({1}, 0));
}

/// A megapixel of the 8b shape on an H100, which does a third of 989 TFLOP/s in the tower: 18 ms of
/// work.
BOOST_AUTO_TEST_CASE(a_megapixel_is_cut_into_about_as_many_slices_as_it_takes_milliseconds) {
  const auto vision = config::named_model_config("8b").vision;
  const auto frame = model::frame_flops(vision, 4096);
  std::vector<double> flops{frame.embedding};
  for (int32_t block = 0; block < vision.depth; ++block) {
    flops.push_back(frame.attention);
    flops.push_back(frame.mlp);
  }
  flops.push_back(frame.merger);
  const double millisecond = 989e12 / 3 * 1e-3;
  const auto cut = model::cut_slices(flops, millisecond);
  BOOST_TEST(cut.size() >= 17U);
  BOOST_TEST(cut.size() <= 24U);
  BOOST_TEST(model::slices_are_bounded(flops, millisecond));
}

BOOST_AUTO_TEST_SUITE_END()
