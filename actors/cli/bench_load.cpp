#include "actors/cli/bench.hpp"
#include "actors/cli/checkpoint_writer.hpp"
#include "actors/cli/elapsed.hpp"
#include "actors/cli/model_bench.hpp"
#include "actors/cli/offline_model.hpp"
#include "config/model_config.hpp"
#include "gpu/cuda_backend.hpp"
#include "model/engine_limits.hpp"
#include "model/model_runner.hpp"
#include "model/vision/vision_runner.hpp"
#include "model/weights/model_weights.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <vector>

namespace troupe::cli {
namespace {

constexpr int32_t rounds = 3;

/// As little beside the weights as a model can have.
model::engine_limits smallest_limits(const model_bench_options& options,
                                     const config::model_config& model) {
  auto engine = engine_for(options, 64, 1, 16);
  engine.limits.kv_cache_bytes = int64_t{1} << 30;
  return model::derive_limits(engine, shape_checkpoint(model), 0);
}

/// Seconds from the folder to text model and vision tower on the device, ready to be captured.
double load_once(const model_bench_options& options, const config::model_config& model,
                 const std::filesystem::path& path) {
  const auto limits = smallest_limits(options, model);
  const auto shared = gpu::shared_memory_on(options.backend().device);
  const auto make_pool = [&] {
    return model::visual_pool(model, options.type(), limits.plan.visual_pool_rows, shared);
  };
  const auto begin = std::chrono::steady_clock::now();
  const auto folder = std::make_shared<model::safetensors_folder>(path);
  model::check_tensors(*folder, model);
  model::runner_options text;
  text.activation = options.type();
  const model::model_runner text_model(gpu::make_operations(options.backend()), model, limits.plan,
                                       model::load_text_weights(folder, model, 0, 1, {}), nullptr,
                                       make_pool(), std::move(text));
  model::vision_options vision;
  vision.activation = options.type();
  vision.max_patches = model.vision.merge_unit();
  vision.max_segments = 1;
  const model::vision_runner tower(gpu::make_operations(options.backend()), model,
                                   model::load_vision_weights(folder, model, {}), make_pool(),
                                   vision);
  return seconds_since(begin);
}

int bench_load(const model_bench_options& options) {
  gpu::use_device(options.backend());
  auto model = options.folder.empty() ? config::named_model_config(options.shape)
                                      : config::read_checkpoint_config(options.folder).model;
  std::optional<random_checkpoint> written;
  if (options.folder.empty()) {
    if (options.layers > 0) model.text.num_hidden_layers = options.layers;
    written.emplace(model, options.scratch);
  }
  const auto path = written ? written->folder() : std::filesystem::path(options.folder);
  const auto bytes = static_cast<double>(model::safetensors_folder(path).total_bytes());
  std::vector<double> times;
  for (int32_t round = 0; round < rounds; ++round) times.push_back(load_once(options, model, path));
  const double seconds = quantile(times, 0.5);
  bench_row row{fmt::format("load {}", describe_shape(options)),
                fmt::format("{:.2f} GB in {:.3f} s: {:.1f} GB/s", bytes * 1e-9, seconds,
                            bytes / seconds * 1e-9),
                {},
                0};
  if (options.backend().device == gpu::device_kind::cuda) {
    const double rate = gpu::measure_cuda_copy_rate();
    row.limit = fmt::format("{:.3f} s: pinned copies at {:.1f} GB/s", bytes / rate, rate * 1e-9);
    row.share = bytes / rate / seconds;
  }
  print_row(row);
  return 0;
}

}  // namespace

void add_bench_load(CLI::App& bench, action& chosen) {
  const auto options = std::make_shared<model_bench_options>();
  auto* command = add_model_bench(
      bench, chosen, "load", "Weights from files in memory to the device", bench_load, options);
  auto* folder = command->add_option("--folder", options->folder,
                                     "a checkpoint to load, instead of random weights of a shape");
  command->add_option("--scratch", options->scratch, "where random weights are written to")
      ->capture_default_str()
      ->excludes(folder);
  command->add_option("--layers", options->layers, "of the text model, if not all of the shape")
      ->check(CLI::PositiveNumber)
      ->excludes(folder);
}

}  // namespace troupe::cli
