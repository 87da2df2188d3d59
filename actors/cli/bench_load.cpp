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
#include <future>
#include <memory>
#include <optional>
#include <utility>
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

/// What becomes of a checkpoint on a device.
class loaded_model {
 public:
  loaded_model(const model_bench_options& options, const config::model_config& model)
      : options_(options), model_(model), limits_(smallest_limits(options, model)) {}

  /// Seconds from the folder to text model and vision tower on the device, ready to be captured.
  /// They are loaded side by side, as a shard and the tower are.
  double load(const std::filesystem::path& path) {
    const auto begin = std::chrono::steady_clock::now();
    const auto folder = std::make_shared<const model::safetensors_folder>(path);
    model::check_tensors(*folder, model_);
    auto tower = std::async(std::launch::async, [&] { load_tower(folder); });
    load_text(folder);
    tower.get();
    return seconds_since(begin);
  }

 private:
  using folder_pointer = std::shared_ptr<const model::safetensors_folder>;

  model::visual_pool make_pool() const {
    return {model_, options_.type(), limits_.plan.visual_pool_rows,
            gpu::shared_memory_on(options_.backend().device)};
  }

  void load_text(const folder_pointer& folder) {
    model::runner_options chosen;
    chosen.activation = options_.type();
    text_ = std::make_unique<model::model_runner>(
        gpu::make_operations(options_.backend()), model_, limits_.plan,
        model::load_text_weights(folder, model_, 0, 1, {}), nullptr, make_pool(),
        std::move(chosen));
  }

  void load_tower(const folder_pointer& folder) {
    gpu::use_device(options_.backend());
    model::vision_options chosen;
    chosen.activation = options_.type();
    chosen.max_patches = model_.vision.merge_unit();
    chosen.max_segments = 1;
    tower_ = std::make_unique<model::vision_runner>(
        gpu::make_operations(options_.backend()), model_,
        model::load_vision_weights(folder, model_, {}), make_pool(), chosen);
  }

  const model_bench_options& options_;
  const config::model_config& model_;
  model::engine_limits limits_;
  std::unique_ptr<model::model_runner> text_;
  std::unique_ptr<model::vision_runner> tower_;
};

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
  for (int32_t round = 0; round < rounds; ++round)
    times.push_back(loaded_model(options, model).load(path));
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
