#include "actors/cli/bench.hpp"
#include "actors/cli/elapsed.hpp"
#include "actors/cli/model_bench.hpp"
#include "actors/cli/offline_model.hpp"
#include "actors/cli/offline_tower.hpp"
#include "actors/cli/sample_picture.hpp"
#include "actors/device_turns.hpp"
#include "actors/media_worker_actor.hpp"
#include "actors/placement.hpp"
#include "actors/system.hpp"
#include "config/ensure.hpp"
#include "model/vision/media.hpp"
#include "model/work_model.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <caf/actor_system.hpp>
#include <caf/scoped_actor.hpp>

#include <algorithm>
#include <chrono>
#include <future>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr int32_t sequences_max = 8;          // that decode while pictures come
constexpr int32_t batched_tokens_max = 8192;  // of a step, as on GPUs by default
// With eight sequences a bucket of 192: about as much arithmetic as reading the weights of a step
// takes.
constexpr int32_t prefill_beside_decode = 184;
constexpr std::chrono::milliseconds picture_period{200};
constexpr std::chrono::minutes worker_timeout{1};

/// The pictures of one size that this benchmark encodes, in one of two places in the pool in turn:
/// while a prompt reads one, the next picture is written to the other.
class picture_rows {
 public:
  explicit picture_rows(int32_t count) : count_(count) {}

  std::vector<int32_t> next() {
    std::vector<int32_t> rows(static_cast<size_t>(count_));
    std::iota(rows.begin(), rows.end(), turn_ * count_);
    turn_ = 1 - turn_;
    return rows;
  }
  static int32_t pool_rows(int32_t count) { return 2 * count; }

 private:
  int32_t count_;
  int32_t turn_ = 0;
};

/// Text around one picture, as a chat template places it.
plan::prompt picture_prompt(const config::model_config& model, model::patch_grid grid,
                            int32_t text_tokens, uint64_t seed) {
  const int32_t merge = model.vision.spatial_merge_size;
  plan::visual_span span;
  span.first_token = text_tokens / 2;
  span.num_tokens = grid.visual_tokens(merge);
  span.grid_height = grid.height / merge;
  span.grid_width = grid.width / merge;
  plan::prompt prompt;
  prompt.token_ids = random_tokens(text_tokens, model.text.vocab_size, seed);
  prompt.token_ids.insert(prompt.token_ids.begin() + span.first_token,
                          static_cast<size_t>(span.num_tokens), model.image_token_id);
  prompt.spans.push_back(span);
  plan::assign_positions(prompt);
  return prompt;
}

/// Model and tower on one device, and the picture that they are given again and again.
struct picture_bench {
  picture_bench(const model_bench_options& chosen, int32_t num_ranks);

  /// From patches on the host to the token on the host.
  void compute_first_token(const model::patch_rows& pixels);
  int32_t prompt_tokens() const { return options.tokens + grid.visual_tokens(merge); }

  model_bench_options options;
  int32_t ranks;  // of the text model; the tower lives beside the first
  config::checkpoint_config checkpoint;
  int32_t merge;
  model::patch_grid grid;
  model::patch_rows patches;
  picture_rows places;
  std::shared_ptr<actors::device_turns> turns = std::make_shared<actors::device_turns>();
  offline_model text;
  offline_tower tower;
  uint64_t prompts = 0;

  plan::prompt next_prompt() {
    return picture_prompt(checkpoint.model, grid, options.tokens, ++prompts);
  }
};

config::engine_config engine_with_pictures(const model_bench_options& options,
                                           int32_t visual_rows) {
  const int64_t longest =
      std::max(options.context + 2 * options.steps, options.tokens + visual_rows) + 2;
  auto engine = engine_for(options, longest, sequences_max + 1, batched_tokens_max);
  engine.limits.visual_pool_rows = picture_rows::pool_rows(visual_rows);
  engine.limits.max_prefill_tokens_beside_decode = options.prefill_beside_decode;
  return engine;
}

offline_tower::settings tower_settings(const picture_bench& bench) {
  offline_tower::settings chosen;
  chosen.model = bench.checkpoint.model;
  chosen.runner.activation = bench.options.type();
  chosen.runner.max_patches = bench.grid.patches();
  chosen.runner.max_segments = bench.grid.t;
  chosen.backend = bench.options.placement(bench.ranks).shard(0);
  chosen.backend.background = true;
  chosen.turns = bench.turns;
  chosen.slice = bench.options.vision_slice();
  chosen.pool_rows = picture_rows::pool_rows(bench.grid.visual_tokens(bench.merge));
  chosen.pool_descriptor = bench.text.visual_pool_descriptor();
  return chosen;
}

picture_bench::picture_bench(const model_bench_options& chosen, int32_t num_ranks)
    : options(chosen),
      ranks(num_ranks),
      checkpoint(shape_checkpoint(config::named_model_config(options.shape))),
      merge(checkpoint.model.vision.spatial_merge_size),
      grid(model::image_grid({options.height, options.width}, checkpoint.preprocessor)),
      patches(random_patches(checkpoint.model.vision, grid, options.type())),
      places(grid.visual_tokens(merge)),
      text(checkpoint.model, engine_with_pictures(options, grid.visual_tokens(merge)),
           options.placement(ranks), turns),
      tower(tower_settings(*this)) {}

void picture_bench::compute_first_token(const model::patch_rows& pixels) {
  auto rows = places.next();
  tower.encode(pixels, rows).get();
  text.submit(next_prompt(), std::move(rows), 1);
  while (text.step().rows == 0) {
  }
}

/// Median seconds of `run`, the first time not counted.
template <class Run>
double median_seconds(int32_t rounds, const Run& run) {
  std::vector<double> times;
  for (int32_t round = 0; round <= rounds; ++round) {
    const auto begin = clock::now();
    run();
    if (round > 0) times.push_back(seconds_since(begin));
  }
  return quantile(times, 0.5);
}

/// The engine's own worker for pictures, in an actor system of its own.
class picture_worker {
 public:
  explicit picture_worker(const picture_bench& bench) : system_(config_), self_(system_) {
    actors::media_worker_options options;
    options.checkpoint = std::make_shared<config::checkpoint_config>(bench.checkpoint);
    options.identity = "bench";
    options.max_pixels = int64_t{bench.options.width} * bench.options.height;
    options.max_frame_patches = bench.grid.patches();
    options.known = std::make_shared<actors::known_digests>(1);
    worker_ = system_.spawn<caf::detached>(actors::media_worker, std::move(options));
    auto request = std::make_shared<actors::completion_request>();
    request->media.push_back(model::make_picture(
        std::make_shared<std::string>(sample_jpeg(bench.options.width, bench.options.height)),
        bench.checkpoint.preprocessor));
    request_ = std::move(request);
  }
  ~picture_worker() { caf::anon_send_exit(worker_, caf::exit_reason::user_shutdown); }
  picture_worker(const picture_worker&) = delete;
  picture_worker& operator=(const picture_worker&) = delete;

  size_t encoded_bytes() const { return request_->media.front().frames.front()->size(); }

  std::shared_ptr<const model::patch_rows> process() {
    std::shared_ptr<const model::patch_rows> patches;
    self_->request(worker_, worker_timeout, actors::process_media{request_, 0, false})
        .receive(
            [&](const actors::media_processed& processed) {
              config::ensure(!processed.refused, "a benchmark's picture was refused");
              patches = processed.patches;
            },
            [](const caf::error& failure) { throw std::runtime_error(caf::to_string(failure)); });
    return patches;
  }

 private:
  actors::system_config config_;
  caf::actor_system system_;
  caf::scoped_actor self_;
  actors::media_worker_actor worker_;
  std::shared_ptr<const actors::completion_request> request_;
};

/// Median seconds from patches.
double measure_first_token(picture_bench& bench, double matmul_rate) {
  const auto& model = bench.checkpoint.model;
  const int32_t rounds = std::max(3, bench.options.steps / 32);
  const double flops = model::vision_flops(model.vision, {bench.grid}) +
                       model::prefill_flops(model.text, bench.prompt_tokens(), 0) / bench.ranks;
  const auto size = fmt::format("{}x{} + {} tokens", bench.options.width, bench.options.height,
                                bench.options.tokens);
  const double seconds = median_seconds(rounds, [&] { bench.compute_first_token(bench.patches); });
  print_matmul_row(fmt::format("picture {}", describe_shape(bench.options, bench.ranks)), size,
                   seconds, flops, matmul_rate);
  picture_worker worker(bench);
  const double with_decoding =
      median_seconds(rounds, [&] { bench.compute_first_token(*worker.process()); });
  print_matmul_row(fmt::format("  from a JPEG of {} KB", worker.encoded_bytes() / 1024), size,
                   with_decoding, flops, matmul_rate);
  return seconds;
}

/// What comes beside the sequences that decode.
enum class disturbance : uint8_t { none, encoding, encoding_and_prefill };

/// Seconds between the tokens of sequences that decode, while pictures come in their period.
class disturbed_decode {
 public:
  disturbed_decode(picture_bench& bench, int32_t batch) : bench_(bench), batch_(batch) {}

  std::vector<double> measure(disturbance beside) {
    start_sequences();
    encode_times_.clear();
    std::vector<double> times;
    auto next_picture = clock::now();
    for (int32_t step = 0; step < bench_.options.steps; ++step) {
      if (beside != disturbance::none && !under_way_ && clock::now() >= next_picture) {
        start_picture();
        next_picture += picture_period;
      }
      if (picture_is_encoded() && beside == disturbance::encoding_and_prefill)
        bench_.text.submit(bench_.next_prompt(), std::move(rows_), 1);
      times.push_back(bench_.text.step().wall_seconds);
    }
    if (under_way_) under_way_->get();
    under_way_.reset();
    end_sequences();
    return times;
  }

  /// Seconds that the pictures of the last measurement took.
  const std::vector<double>& encode_times() const { return encode_times_; }

 private:
  void start_sequences() {
    // They all last to the end of the measurement, however many steps their prompts take.
    const int32_t generated = 2 * bench_.options.steps;
    for (int32_t i = 0; i < batch_; ++i)
      sequences_.push_back(bench_.text.submit(bench_.options.context, generated));
    while (bench_.text.step().rows < batch_) {
    }
  }

  void end_sequences() {
    for (const auto id : sequences_) bench_.text.cancel(id);
    sequences_.clear();
    while (bench_.text.step().tokens > 0) {
    }
  }

  void start_picture() {
    rows_ = bench_.places.next();
    encode_begin_ = clock::now();
    under_way_ = bench_.tower.encode(bench_.patches, rows_);
  }

  bool picture_is_encoded() {
    if (!under_way_ || under_way_->wait_for(std::chrono::seconds(0)) != std::future_status::ready)
      return false;
    std::exchange(under_way_, std::nullopt)->get();
    encode_times_.push_back(seconds_since(encode_begin_));
    return true;
  }

  picture_bench& bench_;
  int32_t batch_;
  std::vector<uint64_t> sequences_;
  std::optional<std::future<void>> under_way_;
  clock::time_point encode_begin_;
  std::vector<double> encode_times_;
  std::vector<int32_t> rows_;
};

void measure_decode_beside_pictures(picture_bench& bench, int32_t batch) {
  struct arm {
    disturbance beside;
    const char* name;
  };
  disturbed_decode decode(bench, batch);
  double undisturbed = 0;
  for (const auto& [beside, name] :
       {arm{disturbance::none, "undisturbed"}, arm{disturbance::encoding, "pictures encoded"},
        arm{disturbance::encoding_and_prefill, "pictures encoded and read"}}) {
    const auto times = decode.measure(beside);
    const double p99 = quantile(times, 0.99);
    if (beside == disturbance::none) undisturbed = p99;
    std::string figure = fmt::format("p50 {:.2f} p99 {:.2f} ms, {:.2f} times",
                                     quantile(times, 0.5) * 1e3, p99 * 1e3, p99 / undisturbed);
    if (!decode.encode_times().empty())
      figure += fmt::format(", {} pictures of {:.1f} ms", decode.encode_times().size(),
                            quantile(decode.encode_times(), 0.5) * 1e3);
    print_row({fmt::format("  decode batch {} context {}, {}", batch, bench.options.context, name),
               figure, "", 0});
  }
}

int bench_picture(const model_bench_options& options) {
  gpu::use_device(options.backend());
  const double matmul_rate = matmul_rate_of(options.backend(), options.type());
  std::vector<rank_time> groups;
  for (const int32_t ranks : options.ranks) {
    picture_bench bench(options, ranks);
    groups.push_back({ranks, measure_first_token(bench, matmul_rate)});
    for (const int32_t batch : {1, sequences_max}) measure_decode_beside_pictures(bench, batch);
  }
  print_scaling(groups);
  return 0;
}

}  // namespace

void add_bench_picture(CLI::App& bench, action& chosen) {
  const auto options = std::make_shared<model_bench_options>();
  options->tokens = 100;
  options->height = options->width = 1024;
  options->steps = 400;
  options->prefill_beside_decode = prefill_beside_decode;
  auto* command =
      add_model_bench(bench, chosen, "picture",
                      "A picture and text to the first token, and decode steps while pictures come",
                      bench_picture, options);
  add_ranks(*command, options);
  add_slice_option(*command, *options);
  command->add_option("--height", options->height, "pixels")->check(CLI::PositiveNumber);
  command->add_option("--width", options->width, "pixels")->check(CLI::PositiveNumber);
  command->add_option("--tokens", options->tokens, "text tokens beside the picture")
      ->check(CLI::PositiveNumber);
  command->add_option("--context", options->context, "keys of the sequences that decode")
      ->check(CLI::PositiveNumber);
  command
      ->add_option("--prefill-beside-decode", options->prefill_beside_decode,
                   "prompt tokens of a step that also decodes, at most; 0: any number")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

}  // namespace troupe::cli
