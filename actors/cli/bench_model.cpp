#include "actors/cli/bench.hpp"
#include "actors/cli/elapsed.hpp"
#include "actors/cli/kernel_profile.hpp"
#include "actors/cli/offline_model.hpp"
#include "actors/placement.hpp"
#include "config/ensure.hpp"
#include "gpu/backend.hpp"
#include "gpu/cpu/machine_rates.hpp"
#include "gpu/cuda_backend.hpp"
#include "model/vision/vision_runner.hpp"
#include "model/work_model.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace troupe::cli {
namespace {

// Prompt tokens of a step beside the tokens that are decoded.
constexpr int32_t prefill_chunk = 256;

struct model_bench_options {
  std::string shape = "tiny";
  std::string dtype = "bfloat16";
  std::string device = "auto";
  bool profile = false;
  std::string picture;  // of the profile
  int32_t threads = static_cast<int32_t>(std::thread::hardware_concurrency());
  int32_t batch = 1;
  int32_t context = 512;
  int32_t steps = 32;
  int32_t tokens = 512;
  int32_t height = 512, width = 512;

  gpu::backend_options backend() const {
    config::engine_config engine;
    if (device != "auto")
      engine.parallel.device =
          device == "cuda" ? config::device_choice::cuda : config::device_choice::cpu;
    auto chosen = actors::place(engine).shard(0);
    chosen.num_threads = threads;
    return chosen;
  }
  gpu::dtype type() const { return dtype == "float32" ? gpu::dtype::f32 : gpu::dtype::bf16; }
};

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

/// A measurement whose limit is arithmetic: `flop` at the rate of a large matmul.
void print_matmul_row(const std::string& name, const std::string& work, double seconds, double flop,
                      double matmul_rate) {
  const double limit = flop / matmul_rate;
  print_row({name, fmt::format("{}: {:.1f} ms", work, seconds * 1e3),
             fmt::format("{:.1f} ms: {:.1f} GFLOP at {:.0f} GFLOP/s", limit * 1e3, flop / 1e9,
                         matmul_rate / 1e9),
             limit / seconds});
}

void profile_if_asked(const model_bench_options& options, const std::function<void()>& run) {
  if (options.profile || !options.picture.empty()) print_kernel_profile(run, options.picture);
}

int bench_decode(const model_bench_options& options) {
  const auto model = config::named_model_config(options.shape);
  const auto backend = options.backend();
  gpu::use_device(backend);
  const double read_rate = read_rate_of(backend);
  // The first sequences generate while the last prompts are still computed, so many tokens more.
  const int32_t prefill_steps =
      options.batch * ((options.context + prefill_chunk - 1) / prefill_chunk);
  const int32_t generated = prefill_steps + options.steps + 2;
  offline_model offline(model,
                        engine_for(options, options.context + generated, options.batch,
                                   options.batch + prefill_chunk),
                        backend);
  for (int32_t i = 0; i < options.batch; ++i) offline.submit(options.context, generated);

  std::vector<double> run_times, wall_times;
  while (std::ssize(run_times) < options.steps) {
    const auto times = offline.step();
    if (times.tokens == 0) break;
    if (times.tokens != options.batch || times.rows != options.batch) continue;  // still prefilling
    run_times.push_back(times.run_seconds);
    wall_times.push_back(times.wall_seconds);
  }
  config::ensure(!run_times.empty(), "no step decoded {} sequences", options.batch);
  const double bytes = model::decode_bytes(model.text, options.type(), options.type(),
                                           options.batch, options.context + generated / 2);
  const double seconds = quantile(run_times, 0.5), limit = bytes / read_rate;
  print_row(
      {fmt::format("decode {}", describe_shape(options)),
       fmt::format("batch {} context {}: {:.2f} ms", options.batch, options.context, seconds * 1e3),
       fmt::format("{:.2f} ms: {:.3f} GB at {:.1f} GB/s", limit * 1e3, bytes / 1e9,
                   read_rate / 1e9),
       limit / seconds});
  print_row(
      {"  p99 / p50 of a step", fmt::format("{:.3f}", quantile(run_times, 0.99) / seconds), "", 0});
  print_row({"  wall over run time (planning)",
             fmt::format("{:.4f}", quantile(wall_times, 0.5) / seconds), "", 0});
  profile_if_asked(options, [&] { offline.step(); });
  return 0;
}

int bench_prefill(const model_bench_options& options) {
  const auto model = config::named_model_config(options.shape);
  const auto backend = options.backend();
  gpu::use_device(backend);
  const double matmul_rate = matmul_rate_of(backend, options.type());
  offline_model offline(model, engine_for(options, options.tokens + 2, 1, options.tokens), backend);
  std::vector<double> times;
  for (int32_t round = 0; round < std::max(3, options.steps / 8); ++round) {
    offline.submit(options.tokens, 1);
    const auto step = offline.step();
    if (round > 0) times.push_back(step.run_seconds);
  }
  const double flops = model::prefill_flops(model.text, options.tokens, 0);
  print_matmul_row(fmt::format("prefill {}", describe_shape(options)),
                   fmt::format("{} tokens", options.tokens), quantile(times, 0.5), flops,
                   matmul_rate);
  offline.submit(options.tokens, 1);
  profile_if_asked(options, [&] { offline.step(); });
  return 0;
}

model::patch_rows random_patches(const config::vision_config& vision, model::patch_grid grid) {
  model::patch_rows rows{grid, {}};
  std::mt19937 random(1);
  std::uniform_real_distribution<float> value(-1, 1);
  rows.pixels.resize(static_cast<size_t>(grid.patches()) *
                     static_cast<size_t>(vision.patch_width()));
  for (auto& pixel : rows.pixels) pixel = value(random);
  return rows;
}

int bench_vision(const model_bench_options& options) {
  const auto model = config::named_model_config(options.shape);
  const auto backend = options.backend();
  gpu::use_device(backend);
  const double matmul_rate = matmul_rate_of(backend, options.type());
  const auto grid =
      model::image_grid({options.height, options.width}, shape_checkpoint(model).preprocessor);
  const auto patches = random_patches(model.vision, grid);
  model::visual_pool pool(model, options.type(), grid.patches() / model.vision.merge_unit(),
                          gpu::shared_memory_on(backend.device));
  model::encode_item item{&patches, {}};
  for (int32_t row = 0; row < pool.rows(); ++row) item.destination_rows.push_back(row);

  model::vision_options runner;
  runner.activation = options.type();
  runner.max_patches = grid.patches();
  runner.max_segments = 1;
  model::vision_runner tower(gpu::make_operations(backend), model,
                             model::random_vision_weights(model, 1), std::move(pool), runner);
  tower.capture({});
  std::vector<double> times;
  for (int32_t round = 0; round < std::max(3, options.steps / 8); ++round) {
    const auto begin = std::chrono::steady_clock::now();
    tower.encode({item});
    times.push_back(seconds_since(begin));
  }
  const double flops = model::vision_flops(model.vision, {grid});
  print_matmul_row(fmt::format("vision {}", describe_shape(options)),
                   fmt::format("{}x{}", options.width, options.height), quantile(times, 0.5), flops,
                   matmul_rate);
  profile_if_asked(options, [&] { tower.encode({item}); });
  return 0;
}

/// Seconds of the steps in which the whole batch decodes, of several models in turn: what disturbs
/// the machine meanwhile disturbs them alike.
std::vector<std::vector<double>> decode_in_turn(const std::vector<offline_model*>& models,
                                                int32_t batch, int32_t steps) {
  std::vector<std::vector<double>> times(models.size());
  while (std::ssize(times.back()) < steps)
    for (size_t i = 0; i < models.size(); ++i) {
      const auto step = models[i]->step();
      config::ensure(step.tokens > 0, "nothing is left to decode");
      if (step.tokens == batch && step.rows == batch) times[i].push_back(step.run_seconds);
    }
  return times;
}

int bench_slot(const model_bench_options& options) {
  const auto with_slot = config::named_model_config(options.shape);
  auto without_slot = with_slot;
  without_slot.vision.deepstack_visual_indexes.clear();
  const auto backend = options.backend();
  gpu::use_device(backend);
  const int32_t generated = options.batch + options.steps + 2;
  const auto engine = engine_for(options, options.context + generated, options.batch,
                                 options.batch + prefill_chunk);
  offline_model with(with_slot, engine, backend), without(without_slot, engine, backend);
  for (auto* offline : {&with, &without})
    for (int32_t i = 0; i < options.batch; ++i) offline->submit(options.context, generated);
  const auto times = decode_in_turn({&with, &without}, options.batch, options.steps);
  const double slot = quantile(times[0], 0.5), none = quantile(times[1], 0.5);
  print_row(
      {fmt::format("deepstack slot {}", describe_shape(options)),
       fmt::format("batch {} context {}: {:.4f} ms, {:.4f} ms without its levels: costs {:.2f} %",
                   options.batch, options.context, slot * 1e3, none * 1e3, 100 * (slot / none - 1)),
       "", 0});
  return 0;
}

using bench_function = int (*)(const model_bench_options&);

CLI::App* add_one(CLI::App& bench, action& chosen, const char* name, const char* help,
                  bench_function run, const std::shared_ptr<model_bench_options>& options) {
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

}  // namespace

void add_bench_model(CLI::App& bench, action& chosen) {
  const auto options = std::make_shared<model_bench_options>();
  auto* decode = add_one(bench, chosen, "decode", "One decode step beside the memory rate",
                         bench_decode, options);
  auto* slot =
      add_one(bench, chosen, "slot", "A text-only decode step with and without the deepstack slot",
              bench_slot, options);
  for (auto* command : {decode, slot}) {
    command->add_option("--batch", options->batch, "sequences")->check(CLI::PositiveNumber);
    command->add_option("--context", options->context, "keys per sequence")
        ->check(CLI::PositiveNumber);
  }
  auto* prefill = add_one(bench, chosen, "prefill", "One prompt beside the matmul rate",
                          bench_prefill, options);
  prefill->add_option("--tokens", options->tokens, "prompt length")->check(CLI::PositiveNumber);
  auto* vision =
      add_one(bench, chosen, "vision", "One picture beside the matmul rate", bench_vision, options);
  vision->add_option("--height", options->height, "pixels")->check(CLI::PositiveNumber);
  vision->add_option("--width", options->width, "pixels")->check(CLI::PositiveNumber);
}

}  // namespace troupe::cli
