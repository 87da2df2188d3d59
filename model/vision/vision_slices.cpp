#include "model/vision/vision_slices.hpp"

#include <algorithm>

namespace troupe::model {
namespace {

// A slice over the bound by less than this is no other kind of thing.
constexpr double tolerated_excess = 2;

}  // namespace

std::vector<part_range> cut_slices(const std::vector<double>& part_flops, double max_flops) {
  const auto num_parts = static_cast<int32_t>(part_flops.size());
  if (max_flops <= 0) return {{0, num_parts}};
  std::vector<part_range> slices;
  double flops = 0;
  for (int32_t part = 0; part < num_parts; ++part) {
    flops += part_flops[static_cast<size_t>(part)];
    if (slices.empty() || flops > max_flops) {
      slices.push_back({part, part});
      flops = part_flops[static_cast<size_t>(part)];
    }
    slices.back().end = part + 1;
  }
  return slices;
}

bool slices_are_bounded(const std::vector<double>& part_flops, double max_flops) {
  return std::all_of(part_flops.begin(), part_flops.end(),
                     [&](double flops) { return flops <= tolerated_excess * max_flops; });
}

}  // namespace troupe::model
