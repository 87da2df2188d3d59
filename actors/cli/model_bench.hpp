#pragma once

#include "actors/cli/commands.hpp"
#include "actors/placement.hpp"
#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/vision/image_processor.hpp"

#include <CLI/App.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace troupe::cli {

/// What the benchmarks of the model alone have in common: random weights of a shape, on a backend.
struct model_bench_options {
  std::string shape = "tiny";
  std::string dtype = "bfloat16";
  std::string device = "auto";
  bool profile = false;
  std::string picture;            // of the profile
  int32_t threads = 0;            // of each rank; 0: its share of the cores
  std::vector<int32_t> ranks{1};  // of tensor-parallel groups, one measured after the other
  int32_t batch = 1;
  int32_t context = 512;
  int32_t steps = 32;
  int32_t tokens = 512;
  int32_t height = 512, width = 512;
  int32_t prefill_beside_decode = 0;  // tokens of a step at most; 0: any number
  int32_t vision_slice_microseconds = -1;  // -1: as an engine does
  int32_t layers = 0;                // 0: as the shape has
  std::string folder;                // of a checkpoint; empty: random weights of the shape
  std::string scratch = "/dev/shm";  // for what is written

  /// Where the ranks of a group run: threads, with a device each if there are as many.
  actors::placement placement(int32_t num_ranks) const;
  gpu::backend_options backend() const { return placement(1).shard(0); }
  /// What the vision tower gives to the device at once; 0: whole pictures.
  std::chrono::microseconds vision_slice() const;
  gpu::dtype type() const { return dtype == "float32" ? gpu::dtype::f32 : gpu::dtype::bf16; }
};

/// "8b bfloat16 on NVIDIA H100, 2 ranks".
std::string describe_shape(const model_bench_options& options, int32_t ranks = 1);

/// Median seconds that a group of some ranks takes for the same work.
struct rank_time {
  int32_t ranks = 1;
  double seconds = 0;
};
/// How much of its ranks each group makes use of, against the first.
void print_scaling(const std::vector<rank_time>& groups);

/// Settings of an engine that has room for this and no more.
config::engine_config engine_for(const model_bench_options& options, int64_t max_model_len,
                                 int32_t max_num_seqs, int32_t max_batched_tokens);

/// What the machine can do, measured now: bytes and FLOP per second.
double read_rate_of(const gpu::backend_options& backend);
double matmul_rate_of(const gpu::backend_options& backend, gpu::dtype type);

/// A measurement whose limit is arithmetic: `flop` at the rate of a large matmul.
void print_matmul_row(const std::string& name, const std::string& work, double seconds, double flop,
                      double matmul_rate);

/// Noise of a grid, as the processor would write it for activations of `type`.
model::patch_rows random_patches(const config::vision_config& vision, model::patch_grid grid,
                                 gpu::dtype type);

using model_bench_function = int (*)(const model_bench_options&);

/// Adds sub-command `name` with the options that all have.
CLI::App* add_model_bench(CLI::App& bench, action& chosen, const char* name, const char* help,
                          model_bench_function run,
                          const std::shared_ptr<model_bench_options>& options);

/// Lets `command` take several groups of ranks.
void add_ranks(CLI::App& command, const std::shared_ptr<model_bench_options>& options);
/// Adds the option for the slices of the vision tower; as served by default.
void add_slice_option(CLI::App& command, model_bench_options& options);

}  // namespace troupe::cli
