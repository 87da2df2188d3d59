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

// Between two looks at what the device has done: short against a picture, long against a look.
constexpr std::chrono::microseconds poll_interval{20};

model::vision_weights load_weights(const weight_source& source, const config::model_config& model) {
  if (source.folder.empty()) return model::random_vision_weights(model, source.seed);
  return model::load_vision_weights(std::make_shared<const model::safetensors_folder>(source.folder),
                                    model, [](int64_t, int64_t) {});
}

vision_tower_opened open(vision_tower_state& state, const vision_tower_options& options,
                         const gpu::backend_factory& make_backend) {
  state.running.clear();
  state.runner.reset();  // the old memory goes before the new comes
  state.staging.reset();
  const auto model = model_of(options.weights);
  gpu::use_device(options.backend);
  state.staging.emplace(model::vision_staging::map(
      {options.max_patches, model.vision.patch_width(), options.activation},
      options.staging_descriptor, options.backend.device));
  auto pool = model::visual_pool::map(model, options.activation, options.pool_rows,
                                      gpu::shared_memory_on(options.backend.device),
                                      options.visual_pool_descriptor);
  auto runner = std::make_unique<model::vision_runner>(
      make_backend(options.backend), model, load_weights(options.weights, model), std::move(pool),
      model::vision_options{options.activation, options.eager, options.max_patches,
                            options.max_segments});
  runner->capture([](int32_t, int32_t) {});
  state.runner = std::move(runner);
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

/// What was captured and allocated in this process since the first picture.
media_encoded count_since_start(const vision_tower_state& state) {
  const auto now = gpu::read_counters();
  return {now.graph_captures - state.graph_captures_at_start,
          now.arena_allocations - state.arena_allocations_at_start};
}

void answer_done(vision_tower_state& state) {
  auto& running = state.running;
  while (!running.empty() && running.front().done->passed()) {
    running.front().promise.deliver(count_since_start(state));
    running.pop_front();
  }
}

caf::result<media_encoded> start(self_pointer self, const encode_media& message) {
  auto& state = self->state;
  if (state.runner == nullptr) return make_error(engine_error::not_open, "no vision tower is loaded");
  if (message.slot < 0 || message.slot >= model::vision_staging::num_slots)
    throw std::invalid_argument(fmt::format("encode: slot {} of {}", message.slot,
                                            model::vision_staging::num_slots));
  remember_start(state);
  auto done = state.runner->start(items_in(state.staging->slot(message.slot), message.jobs));
  if (done->passed()) return count_since_start(state);  // a backend that does everything at once
  if (state.running.empty()) self->send(self, caf::tick_atom::value);
  return state.running
      .emplace_back(vision_run{std::move(done), self->make_response_promise<media_encoded>()})
      .promise;
}

/// Looks again as long as something runs. What came meanwhile is started first.
void poll(self_pointer self, const device_loss_handler& lost) {
  auto& state = self->state;
  const auto looked = guarded_on_device<caf::unit_t>(lost, [&]() -> caf::result<caf::unit_t> {
    answer_done(state);
    return caf::unit;
  });
  if (looked.flag == caf::rt_error)
    for (auto& run : std::exchange(state.running, {})) run.promise.deliver(looked.err);
  if (state.running.empty()) return;
  std::this_thread::sleep_for(poll_interval);
  self->send(self, caf::tick_atom::value);
}

}  // namespace

vision_tower_actor::behavior_type vision_tower(self_pointer self, device_worker_options options) {
  const auto shared = std::make_shared<const device_worker_options>(std::move(options));
  return {
      [self, shared](const open_vision_tower& message) {
        return guarded_on_device<vision_tower_opened>(shared->lost, [&] {
          return open(self->state, message.options, shared->make_backend);
        });
      },
      [self, shared](const encode_media& message) {
        return guarded_on_device<media_encoded>(shared->lost, [&] { return start(self, message); });
      },
      [self](count_anew) { self->state.counted = false; },
      [self, shared](caf::tick_atom) { poll(self, shared->lost); },
  };
}

}  // namespace troupe::actors
