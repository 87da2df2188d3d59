#include "actors/cli/bench.hpp"

#include "actors/cli/commands.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace troupe::cli {

void print_row(const bench_row& row) {
  fmt::print("{:<38} {:>34}", row.name, row.figure);
  if (row.share > 0) fmt::print("   {:5.1f} % of the limit {}", row.share * 100, row.limit);
  fmt::print("\n");
  std::fflush(stdout);
}

double quantile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  const auto index = static_cast<size_t>(std::lround(p * static_cast<double>(values.size() - 1)));
  return values[index];
}

void add_bench(CLI::App& program, action& chosen) {
  auto* command = program.add_subcommand("bench", "Measure, beside the limit of this machine");
  command->require_subcommand(1);
  add_bench_model(*command, chosen);
  add_bench_allreduce(*command, chosen);
  add_bench_load(*command, chosen);
  add_bench_picture(*command, chosen);
  add_bench_step(*command, chosen);
  add_bench_serve(*command, chosen);
}

}  // namespace troupe::cli
