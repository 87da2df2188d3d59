#include "actors/cli/bench.hpp"
#include "actors/cli/elapsed.hpp"
#include "actors/cli/kernel_profile.hpp"
#include "actors/cli/model_bench.hpp"
#include "actors/cli/offline_model.hpp"
#include "actors/device_turns.hpp"
#include "config/ensure.hpp"
#include "gpu/backend.hpp"
#include "model/vision/vision_runner.hpp"
#include "model/vision/vision_staging.hpp"
#include "model/work_model.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace troupe::cli {
namespace {

// Prompt tokens of a step beside the tokens that are decoded.
constexpr int32_t prefill_chunk = 256;

/// If it is asked for; `wall_seconds` is what the same run takes when nobody looks.
void profile(const model_bench_options& options, double wall_seconds,
             const std::function<void()>& run) {
  if (!options.profile && options.picture.empty()) return;
  const double gpu_seconds = print_kernel_profile(run, options.picture);
  print_row({"  wall over GPU time", fmt::format("{:.4f}", wall_seconds / gpu_seconds), "", 0});
}

/// Prints what a group of ranks takes, and returns the median seconds of a step.
double measure_decode(const model_bench_options& options, int32_t ranks) {
  const auto model = config::named_model_config(options.shape);
  const auto where = options.placement(ranks);
  gpu::use_device(where.shard(0));
  const double read_rate = read_rate_of(where.shard(0));
  // The first sequences generate while the last prompts are still computed, so many tokens more.
  const int32_t prefill_steps =
      options.batch * ((options.context + prefill_chunk - 1) / prefill_chunk);
  const int32_t generated = prefill_steps + options.steps + 2;
  offline_model offline(model,
                        engine_for(options, options.context + generated, options.batch,
                                   options.batch + prefill_chunk),
                        where);
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
                                           options.batch, options.context + generated / 2) /
                       ranks;
  const double seconds = quantile(run_times, 0.5), limit = bytes / read_rate;
  print_row(
      {fmt::format("decode {}", describe_shape(options, ranks)),
       fmt::format("batch {} context {}: {:.2f} ms", options.batch, options.context, seconds * 1e3),
       fmt::format("{:.2f} ms: {:.3f} GB at {:.1f} GB/s", limit * 1e3, bytes / 1e9,
                   read_rate / 1e9),
       limit / seconds});
  print_row(
      {"  p99 / p50 of a step", fmt::format("{:.3f}", quantile(run_times, 0.99) / seconds), "", 0});
  print_row({"  wall over run time (planning)",
             fmt::format("{:.4f}", quantile(wall_times, 0.5) / seconds), "", 0});
  profile(options, quantile(wall_times, 0.5), [&] { offline.step(); });
  return seconds;
}

double measure_prefill(const model_bench_options& options, int32_t ranks) {
  const auto model = config::named_model_config(options.shape);
  const auto where = options.placement(ranks);
  gpu::use_device(where.shard(0));
  const double matmul_rate = matmul_rate_of(where.shard(0), options.type());
  offline_model offline(model, engine_for(options, options.tokens + 2, 1, options.tokens), where);
  std::vector<double> times;
  for (int32_t round = 0; round < std::max(3, options.steps / 8); ++round) {
    offline.submit(options.tokens, 1);
    const auto step = offline.step();
    if (round > 0) times.push_back(step.run_seconds);
  }
  const double flops = model::prefill_flops(model.text, options.tokens, 0) / ranks;
  const double seconds = quantile(times, 0.5);
  print_matmul_row(fmt::format("prefill {}", describe_shape(options, ranks)),
                   fmt::format("{} tokens", options.tokens), seconds, flops, matmul_rate);
  offline.submit(options.tokens, 1);
  profile(options, seconds, [&] { offline.step(); });
  return seconds;
}

/// The same work by one group of ranks after the other.
template <double (*measure)(const model_bench_options&, int32_t)>
int bench_groups(const model_bench_options& options) {
  std::vector<rank_time> groups;
  for (const int32_t ranks : options.ranks) groups.push_back({ranks, measure(options, ranks)});
  print_scaling(groups);
  return 0;
}

/// Noise in every slot of staging memory, as an encoder would leave pictures for a tower on
/// `reader`.
model::vision_staging stage_noise(const config::vision_config& vision, model::patch_grid grid,
                                  gpu::dtype type, gpu::device_kind reader) {
  const model::staging_shape shape{grid.patches(), vision.patch_width(), type};
  const model::vision_staging made(shape);
  auto staging = model::vision_staging::map(shape, made.file_descriptor(), reader);
  const auto noise = random_patches(vision, grid, type);
  for (int32_t slot = 0; slot < model::vision_staging::num_slots; ++slot)
    std::copy(noise.pixels.begin(), noise.pixels.end(), staging.slot(slot).data);
  return staging;
}

void wait_for(gpu::milestone& run) {
  while (!run.passed()) std::this_thread::yield();
}

/// Gives the device a whole run.
std::unique_ptr<gpu::milestone> start(model::vision_runner& tower, const model::encode_item& item) {
  tower.begin({item});
  std::unique_ptr<gpu::milestone> last;
  while (tower.slices_left() > 0) last = tower.issue_slice();
  return last;
}

/// Seconds of each of `rounds` pictures that keep the tower busy: one is started while another
/// runs.
std::vector<double> run_in_a_row(model::vision_runner& tower,
                                 const std::vector<model::encode_item>& slots, int32_t rounds) {
  std::vector<double> times;
  auto running = start(tower, slots[0]);
  auto begin = std::chrono::steady_clock::now();
  for (int32_t round = 1; round <= rounds; ++round) {
    auto next = start(tower, slots[static_cast<size_t>(round) % slots.size()]);
    wait_for(*running);
    times.push_back(seconds_since(begin));
    begin = std::chrono::steady_clock::now();
    running = std::move(next);
  }
  wait_for(*running);
  return times;
}

int bench_vision(const model_bench_options& options) {
  const auto model = config::named_model_config(options.shape);
  const auto backend = options.backend();
  gpu::use_device(backend);
  const double matmul_rate = matmul_rate_of(backend, options.type());
  const auto grid =
      model::image_grid({options.height, options.width}, shape_checkpoint(model).preprocessor);
  const auto staging = stage_noise(model.vision, grid, options.type(), backend.device);
  model::visual_pool pool(model, options.type(), grid.patches() / model.vision.merge_unit(),
                          gpu::shared_memory_on(backend.device));
  std::vector<model::encode_item> items;
  for (int32_t slot = 0; slot < model::vision_staging::num_slots; ++slot) {
    const auto pixels = staging.slot(slot);
    auto& item = items.emplace_back();
    item.grid = grid;
    item.pixels = {pixels.data, static_cast<size_t>(pixels.span_bytes())};
    for (int32_t row = 0; row < pool.rows(); ++row) item.destination_rows.push_back(row);
  }

  model::vision_options runner;
  runner.activation = options.type();
  runner.max_patches = grid.patches();
  runner.max_segments = 1;
  runner.max_slice_flops = actors::slice_flops(options.vision_slice(), backend);
  model::vision_runner tower(gpu::make_operations(backend), model,
                             model::random_vision_weights(model, 1), std::move(pool), runner);
  tower.capture({});
  const int32_t rounds = std::max(3, options.steps / 8);
  std::vector<double> alone;
  for (int32_t round = 0; round < rounds; ++round) {
    const auto begin = std::chrono::steady_clock::now();
    tower.encode({items[0]});
    alone.push_back(seconds_since(begin));
  }
  const auto in_a_row = run_in_a_row(tower, items, rounds);
  const double flops = model::vision_flops(model.vision, {grid});
  print_matmul_row(fmt::format("vision {}", describe_shape(options)),
                   fmt::format("{}x{}", options.width, options.height), quantile(alone, 0.5), flops,
                   matmul_rate);
  print_matmul_row("  one picture after another", "each", quantile(in_a_row, 0.5), flops,
                   matmul_rate);
  profile(options, quantile(in_a_row, 0.5), [&] { tower.encode({items[0]}); });
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
  const auto where = options.placement(1);
  gpu::use_device(where.shard(0));
  const int32_t generated = options.batch + options.steps + 2;
  const auto engine = engine_for(options, options.context + generated, options.batch,
                                 options.batch + prefill_chunk);
  offline_model with(with_slot, engine, where), without(without_slot, engine, where);
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

}  // namespace

void add_bench_model(CLI::App& bench, action& chosen) {
  const auto options = std::make_shared<model_bench_options>();
  auto* decode = add_model_bench(bench, chosen, "decode", "One decode step beside the memory rate",
                                 bench_groups<measure_decode>, options);
  auto* slot = add_model_bench(bench, chosen, "slot",
                               "A text-only decode step with and without the deepstack slot",
                               bench_slot, options);
  for (auto* command : {decode, slot}) {
    command->add_option("--batch", options->batch, "sequences")->check(CLI::PositiveNumber);
    command->add_option("--context", options->context, "keys per sequence")
        ->check(CLI::PositiveNumber);
  }
  auto* prefill = add_model_bench(bench, chosen, "prefill", "One prompt beside the matmul rate",
                                  bench_groups<measure_prefill>, options);
  for (auto* command : {decode, prefill}) add_ranks(*command, options);
  prefill->add_option("--tokens", options->tokens, "prompt length")->check(CLI::PositiveNumber);
  auto* vision = add_model_bench(bench, chosen, "vision", "One picture beside the matmul rate",
                                 bench_vision, options);
  add_slice_option(*vision, *options);
  vision->add_option("--height", options->height, "pixels")->check(CLI::PositiveNumber);
  vision->add_option("--width", options->width, "pixels")->check(CLI::PositiveNumber);
}

}  // namespace troupe::cli
