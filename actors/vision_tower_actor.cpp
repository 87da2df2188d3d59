#include "actors/vision_tower_actor.hpp"

#include "actors/errors.hpp"
#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"

#include <span>
#include <utility>

namespace troupe::actors {
namespace {

using self_pointer = vision_tower_actor::stateful_pointer<vision_tower_state>;

std::unique_ptr<model::vision_runner> open(const vision_tower_options& options) {
  const auto& model = options.checkpoint->model;
  gpu::use_device(options.backend);
  auto pool = model::visual_pool::map(model, options.runner.activation, options.pool_rows,
                                      gpu::shared_memory_on(options.backend.device),
                                      options.visual_pool_descriptor);
  auto runner = std::make_unique<model::vision_runner>(
      gpu::make_operations(options.backend), model,
      model::load_vision_weights(options.weights, model, [](int64_t, int64_t) {}), std::move(pool),
      options.runner);
  runner->capture([](int32_t, int32_t) {});
  return runner;
}

/// Grid and pixels of one slice of a job.
model::encode_item cut(const encode_job& job, const encoder_slice& slice) {
  const auto& patches = *job.patches;
  const size_t per_group = patches.pixels.size() / static_cast<size_t>(patches.grid.t);
  model::encode_item item;
  item.grid = {slice.num_groups, patches.grid.height, patches.grid.width};
  item.pixels = std::span(patches.pixels)
                    .subspan(per_group * static_cast<size_t>(slice.first_group),
                             per_group * static_cast<size_t>(slice.num_groups));
  return item;
}

std::vector<int32_t> rows_of(const encode_job& job, const encoder_slice& slice) {
  const auto per_group = std::ssize(job.rows) / job.patches->grid.t;
  const auto first = job.rows.begin() + per_group * slice.first_group;
  return {first, first + per_group * slice.num_groups};
}

void encode(model::vision_runner& runner, const std::vector<encode_job>& jobs,
            const model::vision_options& limits) {
  std::vector<model::patch_grid> grids;
  for (const auto& job : jobs) grids.push_back(job.patches->grid);
  for (const auto& run : plan_encoder_runs(grids, limits.max_patches, limits.max_segments)) {
    std::vector<model::encode_item> items;
    for (const auto& slice : run) {
      items.push_back(cut(jobs[slice.job], slice));
      items.back().destination_rows = rows_of(jobs[slice.job], slice);
    }
    runner.encode(items);
  }
}

/// What was captured and allocated in this process since the first picture.
media_encoded count_since_start(vision_tower_state& state) {
  const auto now = gpu::read_counters();
  return {now.graph_captures - state.graph_captures_at_start,
          now.arena_allocations - state.arena_allocations_at_start};
}

void remember_start(vision_tower_state& state) {
  if (std::exchange(state.counted, true)) return;
  const auto now = gpu::read_counters();
  state.graph_captures_at_start = now.graph_captures;
  state.arena_allocations_at_start = now.arena_allocations;
}

}  // namespace

std::vector<std::vector<encoder_slice>> plan_encoder_runs(const std::vector<model::patch_grid>& grids,
                                                          int64_t max_patches,
                                                          int64_t max_segments) {
  std::vector<std::vector<encoder_slice>> runs(1);
  int64_t patches = 0;
  int64_t segments = 0;
  for (size_t job = 0; job < grids.size(); ++job) {
    const int64_t group_patches = int64_t{grids[job].height} * grids[job].width;
    for (int32_t group = 0; group < grids[job].t; ++group) {
      if (segments > 0 && (patches + group_patches > max_patches || segments + 1 > max_segments)) {
        runs.emplace_back();
        patches = segments = 0;
      }
      auto& run = runs.back();
      if (!run.empty() && run.back().job == job)
        ++run.back().num_groups;
      else
        run.push_back({job, group, 1});
      patches += group_patches;
      ++segments;
    }
  }
  if (runs.back().empty()) runs.pop_back();
  return runs;
}

vision_tower_actor::behavior_type vision_tower(self_pointer self, vision_tower_options options) {
  const auto shared = std::make_shared<const vision_tower_options>(std::move(options));
  return {
      [self, shared](open_vision_tower) {
        return guarded<vision_tower_opened>([&] {
          self->state.runner = open(*shared);
          return vision_tower_opened{};
        });
      },
      [self, shared](const encode_media& message) {
        return guarded<media_encoded>([&]() -> caf::result<media_encoded> {
          if (self->state.runner == nullptr) return make_error(engine_error::not_open);
          remember_start(self->state);
          encode(*self->state.runner, message.jobs, shared->runner);
          return count_since_start(self->state);
        });
      },
  };
}

}  // namespace troupe::actors
