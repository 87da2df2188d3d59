#include "model/text/rotary_tables.hpp"

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <string>

using namespace troupe;

namespace {

config::rope_config released_rope() {
  config::rope_config rope;
  rope.rope_theta = 5e6;
  rope.mrope_section = {24, 20, 20};
  return rope;
}

std::string letters(const std::vector<int32_t>& axes) {
  std::string text;
  for (const int32_t axis : axes) text += "THW"[axis];
  return text;
}

}  // namespace

BOOST_AUTO_TEST_CASE(axes_interleave_as_in_the_released_models) {
  std::string expected;
  for (int i = 0; i < 20; ++i) expected += "THW";
  BOOST_TEST(letters(model::make_rotary_tables(released_rope(), 128).axis) == expected + "TTTT");
}

BOOST_AUTO_TEST_CASE(axes_follow_uneven_sections) {
  auto rope = released_rope();
  rope.mrope_section = {5, 1, 2};
  BOOST_TEST(letters(model::make_rotary_tables(rope, 16).axis) == "THWTTWTT");
}

BOOST_AUTO_TEST_CASE(frequencies_are_powers_of_theta) {
  const auto tables = model::make_rotary_tables(released_rope(), 128);
  BOOST_TEST_REQUIRE(tables.inverse_frequency.size() == 64);
  for (size_t j = 0; j < 64; ++j) {
    const double exact = std::pow(5e6, -static_cast<double>(j) / 64);
    BOOST_TEST(std::abs(tables.inverse_frequency[j] / exact - 1) < 3e-7);  // a few fp32 roundings
  }
  BOOST_TEST(tables.attention_factor == 1);
}

// Values of the README's long-context setting: the ramp runs from pair 29 to pair 45.
BOOST_AUTO_TEST_CASE(yarn_keeps_fast_pairs_and_stretches_slow_ones) {
  auto rope = released_rope();
  const auto plain = model::make_rotary_tables(rope, 128);
  rope.yarn = true;
  rope.yarn_factor = 3;
  rope.original_max_position_embeddings = 262'144;
  const auto yarn = model::make_rotary_tables(rope, 128);
  const auto ratio = [&](size_t j) {
    return yarn.inverse_frequency[j] / plain.inverse_frequency[j];
  };
  for (size_t j = 0; j <= 29; ++j) BOOST_TEST(ratio(j) == 1);
  BOOST_TEST(ratio(30) < 1);
  BOOST_TEST(std::abs(ratio(37) - (0.5F + 0.5F / 3)) < 1e-6);
  BOOST_TEST(ratio(44) > 1.0F / 3 + 0.01F);
  for (size_t j = 45; j < 64; ++j) BOOST_TEST(std::abs(ratio(j) - 1.0F / 3) < 1e-6);
  BOOST_TEST(std::abs(yarn.attention_factor - 1.1099F) < 1e-4);
  BOOST_TEST((yarn.axis == plain.axis));
}
