#include "model/text/rotary_tables.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace troupe::model {
namespace {

// YaRN: a pair that turns more often than `fast` over the original context keeps its frequency, one
// that turns less often than `slow` is interpolated, between them a ramp.
constexpr double yarn_turns_fast = 32;
constexpr double yarn_turns_slow = 1;

/// In fp32 throughout, as the reference computes them.
std::vector<float> plain_frequencies(double theta, int32_t head_dim) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 2));
  for (size_t j = 0; j < frequencies.size(); ++j) {
    const float exponent = static_cast<float>(2 * j) / static_cast<float>(head_dim);
    frequencies[j] = 1.0F / std::pow(static_cast<float>(theta), exponent);
  }
  return frequencies;
}

/// The pair that makes `turns` full turns over the original context.
double pair_of_turns(const config::rope_config& rope, int32_t head_dim, double turns) {
  const auto length = static_cast<double>(rope.original_max_position_embeddings);
  return head_dim * std::log(length / (2 * std::numbers::pi * turns)) /
         (2 * std::log(rope.rope_theta));
}

void interpolate_by_yarn(rotary_tables& tables, const config::rope_config& rope, int32_t head_dim) {
  const double low = std::max(std::floor(pair_of_turns(rope, head_dim, yarn_turns_fast)), 0.0);
  const double high = std::min(std::ceil(pair_of_turns(rope, head_dim, yarn_turns_slow)),
                               static_cast<double>(head_dim - 1));
  const double width = std::max(high - low, 0.001);
  for (size_t j = 0; j < tables.inverse_frequency.size(); ++j) {
    const auto ramp =
        static_cast<float>(std::clamp((static_cast<double>(j) - low) / width, 0.0, 1.0));
    float& frequency = tables.inverse_frequency[j];
    frequency = frequency / static_cast<float>(rope.yarn_factor) * ramp + frequency * (1 - ramp);
  }
  tables.attention_factor = static_cast<float>(0.1 * std::log(rope.yarn_factor) + 1);
}

}  // namespace

rotary_tables make_rotary_tables(const config::rope_config& rope, int32_t head_dim) {
  rotary_tables tables;
  tables.inverse_frequency = plain_frequencies(rope.rope_theta, head_dim);
  tables.axis.assign(tables.inverse_frequency.size(), 0);
  for (int32_t axis = 1; axis < 3; ++axis) {
    const int32_t end = std::min(3 * rope.mrope_section[static_cast<size_t>(axis)], head_dim / 2);
    for (int32_t j = axis; j < end; j += 3) tables.axis[static_cast<size_t>(j)] = axis;
  }
  if (rope.yarn) interpolate_by_yarn(tables, rope, head_dim);
  return tables;
}

}  // namespace troupe::model
