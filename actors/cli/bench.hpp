#pragma once

#include <CLI/App.hpp>

#include "actors/cli/commands.hpp"

#include <string>
#include <vector>

namespace troupe::cli {

/// One line of a benchmark: what was measured, the limit computed from the same process, and their
/// ratio.
struct bench_row {
  std::string name;
  std::string figure;  // "52.1 ms (19.2 tokens/s)"
  std::string limit;   // "40.2 ms: 0.88 GB at 22.1 GB/s"
  double share = 0;    // limit time / measured time; 0: no limit applies
};

/// Prints rows as they come, aligned, on standard output.
void print_row(const bench_row& row);

/// Middle value; p in [0, 1] gives other quantiles. `values` must not be empty.
double quantile(std::vector<double> values, double p);

/// The sub-commands of `troupe bench`.
void add_bench_model(CLI::App& bench, action& chosen);  // decode, prefill, vision: random weights
void add_bench_allreduce(CLI::App& bench, action& chosen);  // collectives in graphs, beside NCCL
void add_bench_load(CLI::App& bench, action& chosen);  // files to device
void add_bench_picture(CLI::App& bench, action& chosen);  // a picture to its token, decode beside it
void add_bench_step(CLI::App& bench, action& chosen);  // plan + messages + completion, null devices
void add_bench_serve(CLI::App& bench, action& chosen);  // end to end over HTTP

}  // namespace troupe::cli
