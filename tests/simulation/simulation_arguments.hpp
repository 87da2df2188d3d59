#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string_view>

namespace troupe::simulation {

/// Which seeds a simulation runs: `schedules` of them from `first`, or the one that is to be seen again.
struct simulation_arguments {
  uint64_t first = 1;
  uint64_t schedules = 2'000;
  bool replay = false;
};

inline std::optional<uint64_t> number_of(std::string_view argument, std::string_view name) {
  if (!argument.starts_with(name)) return std::nullopt;
  return std::strtoull(argument.data() + name.size(), nullptr, 10);
}

/// Nothing, after saying why on standard error, if an argument is not known.
inline std::optional<simulation_arguments> read_arguments(int argc, char** argv) {
  simulation_arguments read;
  for (int i = 1; i < argc; ++i) {
    const std::string_view argument = argv[i];
    if (const auto seed = number_of(argument, "--seed=")) {
      read = {*seed, 1, true};
    } else if (const auto count = number_of(argument, "--schedules=")) {
      read.schedules = *count;
    } else if (const auto begin = number_of(argument, "--first=")) {
      read.first = *begin;
    } else {
      fmt::print(stderr, "unknown argument {}, expected --seed=N, --schedules=N or --first=N\n",
                 argument);
      return std::nullopt;
    }
  }
  return read;
}

}  // namespace troupe::simulation
