#pragma once

#include "actors/engine_messages.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/vision/vision_runner.hpp"
#include "model/weights/safetensors.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <cstdint>
#include <memory>
#include <vector>

namespace troupe::actors {

struct vision_tower_options {
  std::shared_ptr<const config::checkpoint_config> checkpoint;
  std::shared_ptr<const model::safetensors_folder> weights;
  model::vision_options runner;
  gpu::backend_options backend;
  int32_t pool_rows = 0;
  int visual_pool_descriptor = -1;  // duplicated
};

struct vision_tower_state {
  std::unique_ptr<model::vision_runner> runner;
  bool counted = false;  // the counters below are set
  int64_t graph_captures_at_start = 0;
  int64_t arena_allocations_at_start = 0;
  static inline const char* name = "vision_tower";
};

/// Owns the vision runner on a thread of its own: spawned detached.
vision_tower_actor::behavior_type vision_tower(
    vision_tower_actor::stateful_pointer<vision_tower_state> self, vision_tower_options options);

/// Temporal groups [first_group, first_group + num_groups) of one job.
struct encoder_slice {
  size_t job = 0;
  int32_t first_group = 0;
  int32_t num_groups = 0;
};

/// Cuts jobs into runs of at most `max_patches` patches and `max_segments` temporal groups, in order. A
/// clip may be cut between groups, which do not attend to each other in the tower. Each group must fit alone.
std::vector<std::vector<encoder_slice>> plan_encoder_runs(const std::vector<model::patch_grid>& grids,
                                                          int64_t max_patches, int64_t max_segments);

}  // namespace troupe::actors
