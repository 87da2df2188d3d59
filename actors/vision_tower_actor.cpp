#include "actors/vision_tower_actor.hpp"

#include "actors/errors.hpp"
#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"
#include "model/weights/safetensors.hpp"

#include <caf/send.hpp>
#include <fmt/format.h>

#include <chrono>
#include <stdexcept>
#include <thread>
#include <utility>

namespace troupe::actors {
namespace {

using self_pointer = vision_tower_actor::stateful_pointer<vision_tower_state>;

model::vision_weights load_weights(const weight_source& source, const config::model_config& model) {
  if (source.folder.empty()) return model::random_vision_weights(model, source.seed);
  return model::load_vision_weights(std::make_shared<const model::safetensors_folder>(source.folder),
                                    model, [](int64_t, int64_t) {});
}

vision_tower_opened open(vision_tower_state& state, const vision_tower_options& options,
                         const device_worker_options& worker) {
  state.promises.clear();
  state.runs.reset();  // the old memory goes before the new comes
  state.runner.reset();
  state.staging.reset();
  const auto model = model_of(options.weights);
  gpu::use_device(options.backend);
  state.staging.emplace(model::vision_staging::map(
      {options.max_patches, model.vision.patch_width(), options.activation},
      options.staging_descriptor, options.backend.device));
  auto pool = model::visual_pool::map(model, options.activation, options.pool_rows,
                                      gpu::shared_memory_on(options.backend.device),
                                      options.visual_pool_descriptor);
  const std::chrono::microseconds slice(options.slice_microseconds);
  auto runner = std::make_unique<model::vision_runner>(
      worker.make_backend(options.backend), model, load_weights(options.weights, model),
      std::move(pool),
      model::vision_options{options.activation, options.eager, options.max_patches,
                            options.max_segments, slice_flops(slice, options.backend)});
  runner->capture([](int32_t, int32_t) {});
  worker.turns->open(slice);
  state.runner = std::move(runner);
  state.runs.emplace(*state.runner, *worker.turns);
  state.counted = false;
  return {};
}

/// The jobs with their pixels in `slot`, one after another.
std::vector<model::encode_item> items_in(const gpu::tensor_view& slot,
                                         const std::vector<encode_job>& jobs) {
  std::vector<model::encode_item> items;
  int64_t first = 0;
  for (const auto& job : jobs) {
    const int64_t patches = int64_t{job.grid.t} * job.grid.height * job.grid.width;
    if (patches < 0 || patches > slot.rows() - first)
      throw std::invalid_argument(fmt::format("encode: {} patches behind {} in a slot of {}", patches,
                                              first, slot.rows()));
    const auto place = slot.slice_rows(first, patches);
    items.push_back({job.grid, {place.data, static_cast<size_t>(place.span_bytes())}, job.rows});
    first += patches;
  }
  return items;
}

void remember_start(vision_tower_state& state) {
  if (std::exchange(state.counted, true)) return;
  const auto now = gpu::read_counters();
  state.graph_captures_at_start = now.graph_captures;
  state.arena_allocations_at_start = now.arena_allocations;
}

/// What was done in this process since the first picture.
media_encoded count_since_start(const vision_tower_state& state, const device_turns& turns) {
  const auto now = gpu::read_counters();
  return {now.graph_captures - state.graph_captures_at_start,
          now.arena_allocations - state.arena_allocations_at_start, turns.statistics()};
}

void advance(vision_tower_state& state, const device_turns& turns) {
  for (int32_t finished = state.runs->advance(); finished > 0; --finished) {
    state.promises.front().deliver(count_since_start(state, turns));
    state.promises.pop_front();
  }
}

/// Looks again as long as something is unfinished. What came meanwhile is added first.
void poll(self_pointer self, const device_worker_options& worker) {
  auto& state = self->state;
  if (state.promises.empty()) return;  // of a tower that was opened anew meanwhile
  const auto looked = guarded_on_device<caf::unit_t>(worker.lost, [&]() -> caf::result<caf::unit_t> {
    advance(state, *worker.turns);
    return caf::unit;
  });
  if (looked.flag == caf::rt_error)
    for (auto& promise : std::exchange(state.promises, {})) promise.deliver(looked.err);
  if (state.promises.empty()) return;
  std::this_thread::sleep_for(tower_poll_interval);
  self->send(self, caf::tick_atom::value);
}

caf::result<media_encoded> start(self_pointer self, const encode_media& message) {
  auto& state = self->state;
  if (state.runner == nullptr) return make_error(engine_error::not_open, "no vision tower is loaded");
  if (message.slot < 0 || message.slot >= model::vision_staging::num_slots)
    throw std::invalid_argument(fmt::format("encode: slot {} of {}", message.slot,
                                            model::vision_staging::num_slots));
  remember_start(state);
  state.runs->add(items_in(state.staging->slot(message.slot), message.jobs));
  if (state.promises.empty()) self->send(self, caf::tick_atom::value);
  return state.promises.emplace_back(self->make_response_promise<media_encoded>());
}

}  // namespace

vision_tower_actor::behavior_type vision_tower(self_pointer self, device_worker_options options) {
  const auto shared = std::make_shared<const device_worker_options>(std::move(options));
  return {
      [self, shared](const open_vision_tower& message) {
        return guarded_on_device<vision_tower_opened>(shared->lost, [&] {
          return open(self->state, message.options, *shared);
        });
      },
      [self, shared](const encode_media& message) {
        return guarded_on_device<media_encoded>(shared->lost, [&] { return start(self, message); });
      },
      [self](count_anew) { self->state.counted = false; },
      [self, shared](caf::tick_atom) { poll(self, *shared); },
  };
}

}  // namespace troupe::actors
