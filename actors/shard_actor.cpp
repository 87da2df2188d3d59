#include "actors/shard_actor.hpp"

#include "actors/errors.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/counters.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"
#include "model/weights/safetensors.hpp"
#include "transport/symmetric_arena.hpp"

#include <caf/actor.hpp>
#include <caf/actor_cast.hpp>
#include <fmt/format.h>
#include <caf/send.hpp>
#include <spdlog/spdlog.h>

#include <chrono>
#include <functional>
#include <stdexcept>
#include <utility>

namespace troupe::actors {
namespace {

using self_pointer = shard_actor::stateful_pointer<shard_state>;
using progress_report = std::function<void(loading_progress)>;

// Shares of the progress shown: reading weights takes most of a start.
constexpr double weights_percent = 80;
constexpr double ready_percent = 100;
// A report per step of this many percent is enough for a progress bar.
constexpr double report_step_percent = 1;

/// Tells whoever asked for opening, and only when there is something new to see.
progress_report report_to(self_pointer self, int32_t tp_rank) {
  const auto listener = caf::actor_cast<caf::actor>(self->current_sender());
  double reported = -report_step_percent;
  return [self, listener, tp_rank, reported](loading_progress progress) mutable {
    if (listener == nullptr || progress.percent < reported + report_step_percent) return;
    reported = progress.percent;
    caf::anon_send(listener, shard_progress{tp_rank, std::move(progress)});
  };
}

model::text_weights load_weights(const shard_options& options, const config::model_config& model,
                                 const progress_report& report) {
  const auto& source = options.weights;
  if (source.folder.empty())
    return model::random_text_weights(model, source.seed, options.tp_rank, options.tp_size);
  auto folder = std::make_shared<const model::safetensors_folder>(source.folder);
  return model::load_text_weights(
      std::move(folder), model, options.tp_rank, options.tp_size, [&](int64_t done, int64_t total) {
        const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 1;
        report({"loading weights", weights_percent * share, done, total, true});
      });
}

std::unique_ptr<model::model_runner> make_runner(const shard_options& options,
                                                 const device_worker_options& worker,
                                                 const progress_report& report) {
  const auto model = model_of(options.weights);
  gpu::use_device(options.backend);
  const auto shared = gpu::shared_memory_on(options.backend.device);
  auto symmetric = std::make_unique<transport::symmetric_arena>(
      options.tp_rank, options.symmetric_descriptors, options.lanes,
      std::chrono::milliseconds(options.collective_timeout_ms), shared);
  auto pool =
      model::visual_pool::map(model, options.activation, options.limits.visual_pool_rows, shared,
                              options.visual_pool_descriptor);
  return std::make_unique<model::model_runner>(
      worker.make_backend(options.backend), model, options.limits,
      load_weights(options, model, report), std::move(symmetric), std::move(pool),
      model::runner_options{options.activation, options.eager, options.epoch, options.token_mask,
                            options.alone, worker.turns});
}

/// What the device could give beyond what the runner's ledger names.
int64_t unnamed_bytes(const model::model_runner& runner, const gpu::backend_options& backend) {
  if (backend.device == gpu::device_kind::cpu) return 0;
  int64_t bytes = gpu::free_cuda_bytes(backend.cuda_device);
  for (const auto& entry : runner.ledger()) bytes += entry.bytes;
  return bytes;
}

gpu::digest128 capture(model::model_runner& runner, const shard_options& options,
                       const progress_report& report) {
  const auto before = unnamed_bytes(runner, options.backend);
  const auto graphs = runner.capture([&](int32_t done, int32_t total) {
    const double share = total > 0 ? static_cast<double>(done) / total : 1;
    report({"capturing graphs", weights_percent + (ready_percent - weights_percent) * share, done,
            total, false});
  });
  if (options.backend.device == gpu::device_kind::cuda && !options.eager)
    spdlog::info("rank {}: {} graphs captured, which take {} MiB of the device beside what they work on",
                 options.tp_rank, options.limits.token_buckets.size(),
                 (before - unnamed_bytes(runner, options.backend)) >> 20);
  return graphs;
}

shard_opened open(shard_state& state, const shard_options& options,
                  const device_worker_options& worker, const progress_report& report) {
  if (options.limits.vocab_size <= 0 || options.tp_size < 1 || options.tp_rank < 0 ||
      options.tp_rank >= options.tp_size)
    throw std::invalid_argument(fmt::format("a shard of rank {} of {} with a vocabulary of {}",
                                            options.tp_rank, options.tp_size,
                                            options.limits.vocab_size));
  state.runner.reset();  // the old memory goes before the new comes
  state.runner = make_runner(options, worker, report);
  state.counted = false;
  return {capture(*state.runner, options, report)};
}

caf::result<shard_opened> join(shard_state& state, const join_group& message) {
  if (state.runner == nullptr) return make_error(engine_error::not_open, "no model is loaded");
  state.counted = false;
  return shard_opened{state.runner->join(message.symmetric_descriptors, message.epoch)};
}

/// Counters start with a group's first step: by then every actor of this process has captured and allocated.
void remember_start(shard_state& state) {
  if (std::exchange(state.counted, true)) return;
  const auto now = gpu::read_counters();
  state.graph_captures_at_start = now.graph_captures;
  state.arena_allocations_at_start = now.arena_allocations;
}

step_completed carry_out(model::model_runner& runner, const run_step& message) {
  const auto& plan = *message.plan;
  step_completed completed;
  if (message.order != step_order::recheck)
    completed.result = runner.run(plan, message.order == step_order::eager ? model::step_mode::eager
                                                                           : model::step_mode::graph);
  if (message.order != step_order::verified && message.order != step_order::recheck) return completed;
  auto verified = runner.verify(plan);
  verified.result.elapsed_ns = completed.result.elapsed_ns;
  completed.result = std::move(verified.result);
  completed.difference = std::move(verified.difference);
  return completed;
}

caf::result<step_completed> run(shard_state& state, const run_step& message) {
  if (state.runner == nullptr) return make_error(engine_error::not_open, "no model is loaded");
  if (message.plan == nullptr) return make_error(engine_error::plan_refused, "a step without a plan");
  remember_start(state);
  auto completed = carry_out(*state.runner, message);
  const auto now = gpu::read_counters();
  completed.graph_captures_after_start = now.graph_captures - state.graph_captures_at_start;
  completed.arena_allocations_after_start = now.arena_allocations - state.arena_allocations_at_start;
  return completed;
}

}  // namespace

shard_actor::behavior_type shard(self_pointer self, device_worker_options options) {
  const auto shared = std::make_shared<const device_worker_options>(std::move(options));
  return {
      [self, shared](const open_shard& message) {
        const auto report = report_to(self, message.options.tp_rank);
        return guarded_on_device<shard_opened>(shared->lost, [&] {
          return open(self->state, message.options, *shared, report);
        });
      },
      [self, shared](const join_group& message) {
        return guarded_on_device<shard_opened>(shared->lost,
                                               [&] { return join(self->state, message); });
      },
      [self, shared](const run_step& message) {
        return guarded_on_device<step_completed>(shared->lost,
                                                 [&] { return run(self->state, message); });
      },
  };
}

}  // namespace troupe::actors
