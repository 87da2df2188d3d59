#pragma once

#include <cstdint>
#include <vector>

namespace troupe::model {

/// Neighbouring parts of a run of the vision tower.
struct part_range {
  int32_t first = 0;
  int32_t end = 0;  // one past the last
  bool operator==(const part_range&) const = default;
};

/// Cuts a run into slices: as many parts as stay within `max_flops`, at least one. 0: all in one.
std::vector<part_range> cut_slices(const std::vector<double>& part_flops, double max_flops);

/// Whether every slice has about `max_flops` at most: no part is far larger, which cannot be cut.
bool slices_are_bounded(const std::vector<double>& part_flops, double max_flops);

}  // namespace troupe::model
