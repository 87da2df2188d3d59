#include "actors/cli/offline_model.hpp"

#include "actors/cli/elapsed.hpp"
#include "actors/placement.hpp"
#include "config/ensure.hpp"
#include "gpu/backend.hpp"
#include "gpu/cuda_backend.hpp"
#include "model/weights/model_weights.hpp"

#include <chrono>
#include <random>
#include <utility>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr uint64_t weights_seed = 1;
constexpr std::chrono::hours no_deadline{24};

int64_t free_bytes(const gpu::backend_options& backend) {
  return backend.device == gpu::device_kind::cuda ? gpu::free_cuda_bytes(backend.cuda_device)
                                                  : model::available_memory_bytes();
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
                             const gpu::backend_options& backend)
    : limits_(model::derive_limits(actors::with_device_defaults(engine, backend.device),
                                   shape_checkpoint(model), free_bytes(backend))) {
  model::runner_options options;
  options.activation = limits_.activation;
  options.eager = engine.limits.eager;
  model::visual_pool pool(model, limits_.activation, limits_.plan.visual_pool_rows,
                          gpu::shared_memory_on(backend.device));
  pool_descriptor_ = pool.file_descriptor();
  runner_ =
      std::make_unique<model::model_runner>(gpu::make_operations(backend), model, limits_.plan,
                                            model::random_text_weights(model, weights_seed, 0, 1),
                                            nullptr, std::move(pool), std::move(options));
  runner_->capture({});

  scheduling::planner_limits planner;
  planner.plan = limits_.plan;
  planner.max_waiting_requests = 1 << 20;
  planner.max_waiting_tokens = int64_t{1} << 40;
  planner.max_prefill_tokens_beside_decode = engine.limits.max_prefill_tokens_beside_decode;
  planner.prefix_cache = false;
  planner_ = std::make_unique<scheduling::step_planner>(std::move(planner));
}

offline_model::~offline_model() = default;

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
  const auto run_begin = clock::now();
  const auto result = runner_->run(*plan);
  times.run_seconds = seconds_since(run_begin);
  planner_->complete(result);
  planner_->take_events();
  times.wall_seconds = seconds_since(begin);
  times.tokens = plan->num_tokens();
  times.rows = plan->num_rows();
  return times;
}

}  // namespace troupe::cli
