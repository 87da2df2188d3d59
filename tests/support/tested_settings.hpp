#pragma once

#include "support/runner_group.hpp"

#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

namespace troupe::testing {

/// A checkpoint, how many ranks share it, and what they compute in.
struct tested_setting {
  std::string checkpoint;
  int32_t tp_size = 1;
  gpu::dtype activation = gpu::dtype::f32;

  group_options options() const {
    return {.checkpoint = checkpoint, .tp_size = tp_size, .activation = activation};
  }
};

inline std::ostream& operator<<(std::ostream& out, const tested_setting& value) {
  return out << value.checkpoint << " on " << value.tp_size << " ranks in "
             << (value.activation == gpu::dtype::f32 ? "f32" : "bf16");
}

/// What a test of graphs runs on: everything on a device; on the CPU, which shares all but the
/// kernels, enough to keep the test honest.
inline std::vector<tested_setting> tested_settings() {
  using enum gpu::dtype;
  if (tested_device() == gpu::device_kind::cpu) return {{"tiny", 1, f32}, {"tiny", 2, bf16}};
  return {{"tiny", 1, f32},     {"tiny", 1, bf16}, {"tiny", 2, bf16},
          {"tiny", 4, bf16},    {"tiny", 2, f32},  {"dense72", 1, bf16},
          {"dense72", 2, bf16}, {"moe", 1, bf16},  {"moe", 2, bf16}};
}

/// How often a test repeats itself.
inline int32_t rounds_of(int32_t on_cpu, int32_t on_device) {
  return tested_device() == gpu::device_kind::cpu ? on_cpu : on_device;
}

}  // namespace troupe::testing
