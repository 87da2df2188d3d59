#include "actors/cli/model_bench.hpp"

#include "actors/cli/bench.hpp"
#include "gpu/bfloat16.hpp"
#include "gpu/cpu/machine_rates.hpp"
#include "gpu/cuda_backend.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <random>

namespace troupe::cli {

actors::placement model_bench_options::placement(int32_t num_ranks) const {
  config::engine_config engine;
  if (device != "auto")
    engine.parallel.device =
        device == "cuda" ? config::device_choice::cuda : config::device_choice::cpu;
  engine.parallel.tensor = num_ranks;
  engine.parallel.isolation = config::isolation_mode::thread;
  auto where = actors::place(engine);
  if (threads > 0) where.num_cores = threads * num_ranks;
  return where;
}

std::chrono::microseconds model_bench_options::vision_slice() const {
  config::engine_config engine;
  engine.limits.vision_slice_microseconds = vision_slice_microseconds;
  engine = actors::with_device_defaults(engine, backend().device);
  return std::chrono::microseconds(engine.limits.vision_slice_microseconds);
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

std::string describe_shape(const model_bench_options& options, int32_t ranks) {
  const auto where = options.placement(ranks);
  const std::string device = where.device == gpu::device_kind::cuda
                                 ? gpu::cuda_devices().front().name
                                 : fmt::format("{} threads", where.shard(0).num_threads);
  const std::string sharing = where.device == gpu::device_kind::cuda && where.num_devices < ranks
                                  ? fmt::format(" on {} devices", where.num_devices)
                                  : "";
  return fmt::format("{} {} on {}{}", options.shape, options.dtype, device,
                     ranks == 1 ? "" : fmt::format(", {} ranks{}", ranks, sharing));
}

void print_scaling(const std::vector<rank_time>& groups) {
  for (size_t i = 1; i < groups.size(); ++i) {
    const auto& [ranks, seconds] = groups[i];
    const auto& base = groups.front();
    print_row(
        {fmt::format("  scaling efficiency, {} to {} ranks", base.ranks, ranks),
         fmt::format("{:.1f} %: {:.2f} times as fast",
                     100 * base.seconds * base.ranks / (seconds * ranks), base.seconds / seconds),
         "", 0});
  }
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
  rows.pixels.resize(
      static_cast<size_t>(int64_t{grid.patches()} * vision.patch_width() * gpu::size_of(type)));
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
  command
      ->add_option("--threads", options->threads,
                   "threads of a rank, if not its share of the cores")
      ->check(CLI::PositiveNumber);
  command->add_option("--steps", options->steps, "measured steps")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback([&chosen, run, options] { chosen = [run, options] { return run(*options); }; });
  return command;
}

void add_ranks(CLI::App& command, const std::shared_ptr<model_bench_options>& options) {
  command
      .add_option("--ranks", options->ranks,
                  "tensor-parallel groups of so many ranks: 1,2 measures both and how it scales")
      ->delimiter(',')
      ->check(CLI::Range(1, gpu::max_ranks))
      ->capture_default_str();
}

void add_slice_option(CLI::App& command, model_bench_options& options) {
  command
      .add_option("--vision-slice-microseconds", options.vision_slice_microseconds,
                  "what the vision tower gives to the device at once, as served by default; 0: whole "
                  "pictures")
      ->check(CLI::NonNegativeNumber);
}

}  // namespace troupe::cli
