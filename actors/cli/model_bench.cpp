#include "actors/cli/model_bench.hpp"

#include "actors/cli/bench.hpp"
#include "actors/placement.hpp"
#include "gpu/bfloat16.hpp"
#include "gpu/cpu/machine_rates.hpp"
#include "gpu/cuda_backend.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <random>

namespace troupe::cli {

gpu::backend_options model_bench_options::backend() const {
  config::engine_config engine;
  if (device != "auto")
    engine.parallel.device =
        device == "cuda" ? config::device_choice::cuda : config::device_choice::cpu;
  auto chosen = actors::place(engine).shard(0);
  chosen.num_threads = threads;
  return chosen;
}

config::engine_config engine_for(const model_bench_options& options, int64_t max_model_len,
                                 int32_t max_num_seqs, int32_t max_batched_tokens) {
  config::engine_config engine;
  engine.model.dtype = options.type() == gpu::dtype::f32 ? config::compute_dtype::float32
                                                         : config::compute_dtype::bfloat16;
  engine.model.max_model_len = max_model_len;
  engine.limits.max_num_seqs = max_num_seqs;
  engine.limits.max_num_batched_tokens = max_batched_tokens;
  engine.limits.visual_pool_rows = 64;  // the slot is there; nothing of this size is measured
  engine.limits.prefix_cache = false;
  return engine;
}

std::string describe_shape(const model_bench_options& options) {
  if (options.backend().device == gpu::device_kind::cuda)
    return fmt::format("{} {} on {}", options.shape, options.dtype,
                       gpu::cuda_devices().front().name);
  return fmt::format("{} {} on {} threads", options.shape, options.dtype, options.threads);
}

double read_rate_of(const gpu::backend_options& backend) {
  return backend.device == gpu::device_kind::cuda
             ? gpu::measure_cuda_read_rate()
             : gpu::cpu::measure_read_rate(backend.num_threads);
}

double matmul_rate_of(const gpu::backend_options& backend, gpu::dtype type) {
  return backend.device == gpu::device_kind::cuda
             ? gpu::measure_cuda_matmul_rate(type)
             : gpu::cpu::measure_matmul_rate(backend.num_threads, type);
}

void print_matmul_row(const std::string& name, const std::string& work, double seconds, double flop,
                      double matmul_rate) {
  const double limit = flop / matmul_rate;
  print_row({name, fmt::format("{}: {:.1f} ms", work, seconds * 1e3),
             fmt::format("{:.1f} ms: {:.1f} GFLOP at {:.0f} GFLOP/s", limit * 1e3, flop / 1e9,
                         matmul_rate / 1e9),
             limit / seconds});
}

model::patch_rows random_patches(const config::vision_config& vision, model::patch_grid grid,
                                 gpu::dtype type) {
  model::patch_rows rows{grid, type, {}};
  std::mt19937 random(1);
  std::uniform_real_distribution<float> value(-1, 1);
  rows.pixels.resize(static_cast<size_t>(int64_t{grid.patches()} * vision.patch_width() *
                                         gpu::size_of(type)));
  if (type == gpu::dtype::f32)
    for (float& pixel : rows.values<float>()) pixel = value(random);
  else
    for (auto& pixel : rows.values<gpu::bfloat16>()) pixel = gpu::to_bfloat16(value(random));
  return rows;
}

CLI::App* add_model_bench(CLI::App& bench, action& chosen, const char* name, const char* help,
                          model_bench_function run,
                          const std::shared_ptr<model_bench_options>& options) {
  auto* command = bench.add_subcommand(name, help);
  command->add_option("--shape", options->shape, "tiny, 2b, 4b, 8b, 32b, 30b-a3b")
      ->capture_default_str();
  command->add_option("--dtype", options->dtype, "bfloat16 or float32")
      ->check(CLI::IsMember({"bfloat16", "float32"}))
      ->capture_default_str();
  command->add_option("--device", options->device, "cpu, cuda or auto")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command->add_flag("--profile", options->profile, "then list the CUDA kernels of one more run");
  command->add_option("--profile-picture", options->picture, "and draw them into this SVG file");
  command->add_option("--threads", options->threads, "threads of the rank")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->add_option("--steps", options->steps, "measured steps")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback([&chosen, run, options] { chosen = [run, options] { return run(*options); }; });
  return command;
}

}  // namespace troupe::cli
