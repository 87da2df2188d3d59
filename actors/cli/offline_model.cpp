#include "actors/cli/offline_model.hpp"

#include "actors/cli/elapsed.hpp"
#include "config/ensure.hpp"
#include "gpu/backend.hpp"
#include "gpu/cuda_backend.hpp"
#include "model/weights/model_weights.hpp"

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr uint64_t weights_seed = 1;
constexpr std::chrono::hours no_deadline{24};
constexpr std::chrono::minutes collective_timeout{1};

int64_t free_bytes(const actors::placement& where) {
  if (where.device == gpu::device_kind::cpu) return model::available_memory_bytes();
  int64_t bytes = 0;
  for (int32_t device = 0; device < where.num_devices; ++device)
    bytes += gpu::free_cuda_bytes(device);
  return bytes;
}

model::engine_limits limits_of(config::engine_config engine, const config::model_config& model,
                               const actors::placement& where) {
  engine.parallel.tensor = where.tp_size;
  return model::derive_limits(actors::with_device_defaults(std::move(engine), where.device),
                              shape_checkpoint(model), free_bytes(where));
}

}  // namespace

config::checkpoint_config shape_checkpoint(const config::model_config& model) {
  config::checkpoint_config checkpoint;
  checkpoint.model = model;
  checkpoint.preprocessor.image_min_pixels = 65'536;
  checkpoint.preprocessor.image_max_pixels = 16'777'216;
  checkpoint.preprocessor.video_min_pixels = 4'096;
  checkpoint.preprocessor.video_max_pixels = 25'165'824;
  checkpoint.preprocessor.mean = {0.5f, 0.5f, 0.5f};
  checkpoint.preprocessor.std = {0.5f, 0.5f, 0.5f};
  return checkpoint;
}

std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed) {
  std::mt19937 bits(static_cast<uint32_t>(seed));
  std::uniform_int_distribution<int32_t> any(0, vocab_size - 1);
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(any(bits));
  return tokens;
}

offline_model::offline_model(const config::model_config& model, const config::engine_config& engine,
                             const actors::placement& where,
                             const std::shared_ptr<model::step_neighbour>& neighbour)
    : limits_(limits_of(engine, model, where)),
      team_(where.tp_size),
      runners_(static_cast<size_t>(where.tp_size)) {
  if (where.tp_size > 1)
    symmetric_.emplace(where.tp_size,
                       std::vector{model::model_runner::lane(model, limits_.plan, where.tp_size)},
                       where.symmetric());
  gpu::use_device(where.shard(0));
  const auto shared = gpu::shared_memory_on(where.device);
  const int32_t pool_rows = limits_.plan.visual_pool_rows;
  pool_.emplace(model, limits_.activation, pool_rows, shared);
  on_ranks([&](int32_t rank) {
    gpu::use_device(where.shard(rank));
    auto own_pool = model::visual_pool::map(model, limits_.activation, pool_rows, shared,
                                            pool_->file_descriptor());
    runners_[static_cast<size_t>(rank)] =
        make_runner(model, engine.limits.eager, where, rank, std::move(own_pool),
                    rank == 0 ? neighbour : nullptr);
  });
  on_ranks([&](int32_t rank) { runners_[static_cast<size_t>(rank)]->capture({}); });

  scheduling::planner_limits planner;
  planner.plan = limits_.plan;
  planner.max_waiting_requests = 1 << 20;
  planner.max_waiting_tokens = int64_t{1} << 40;
  planner.max_prefill_tokens_beside_decode = engine.limits.max_prefill_tokens_beside_decode;
  planner.prefix_cache = false;
  planner_ = std::make_unique<scheduling::step_planner>(std::move(planner));
}

offline_model::~offline_model() {
  team_.run([&](int32_t rank) { runners_[static_cast<size_t>(rank)].reset(); });
}

std::unique_ptr<model::model_runner> offline_model::make_runner(
    const config::model_config& model, bool eager, const actors::placement& where, int32_t rank,
    model::visual_pool pool, std::shared_ptr<model::step_neighbour> neighbour) const {
  model::runner_options options;
  options.activation = limits_.activation;
  options.eager = eager;
  options.neighbour = std::move(neighbour);
  std::unique_ptr<transport::symmetric_arena> symmetric;
  if (symmetric_)
    symmetric = std::make_unique<transport::symmetric_arena>(
        rank, symmetric_->file_descriptors(), symmetric_->lanes(), collective_timeout,
        gpu::shared_memory_on(where.device));
  return std::make_unique<model::model_runner>(
      gpu::make_operations(where.shard(rank)), model, limits_.plan,
      model::random_text_weights(model, weights_seed, rank, where.tp_size), std::move(symmetric),
      std::move(pool), std::move(options));
}

void offline_model::on_ranks(const std::function<void(int32_t)>& task) {
  team_.run([&](int32_t rank) {
    try {
      task(rank);
    } catch (...) {
      if (symmetric_) symmetric_->abort();
      throw;
    }
  });
}

uint64_t offline_model::submit(int32_t prompt_tokens, int32_t max_tokens) {
  plan::prompt prompt;
  prompt.token_ids = random_tokens(prompt_tokens, limits_.plan.vocab_size, next_id_);
  plan::assign_positions(prompt);
  return submit(std::move(prompt), {}, max_tokens);
}

uint64_t offline_model::submit(plan::prompt prompt, std::vector<int32_t> pool_rows,
                               int32_t max_tokens) {
  scheduling::new_request request;
  request.id = next_id_++;
  request.prompt = std::move(prompt);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.ignore_eos = true;
  request.deadline = clock::now() + no_deadline;
  const auto id = request.id;
  const auto admitted = planner_->submit(std::move(request), clock::now());
  config::ensure(!admitted.rejected, "a benchmark's request was rejected: {}", admitted.detail);
  if (!pool_rows.empty())
    config::ensure(planner_->media_ready(id, std::move(pool_rows)),
                   "request {} did not ask for its pictures", id);
  return id;
}

void offline_model::cancel(uint64_t request) {
  planner_->cancel(request);
}

offline_model::step_times offline_model::step() {
  step_times times;
  const auto begin = clock::now();
  const auto plan = planner_->plan_step();
  if (!plan) return times;
  std::vector<double> seconds(runners_.size());
  std::vector<plan::step_result> results(runners_.size());
  on_ranks([&](int32_t rank) {
    const auto index = static_cast<size_t>(rank);
    team_.meet();
    const auto run_begin = clock::now();
    results[index] = runners_[index]->run(*plan);
    seconds[index] = seconds_since(run_begin);
  });
  times.run_seconds = *std::ranges::max_element(seconds);
  for (const auto& result : results)
    config::ensure(result.tokens == results.front().tokens, "ranks sampled different tokens");
  planner_->complete(results.front());
  planner_->take_events();
  times.wall_seconds = seconds_since(begin);
  times.tokens = plan->num_tokens();
  times.rows = plan->num_rows();
  return times;
}

}  // namespace troupe::cli
