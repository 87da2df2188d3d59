#pragma once

#include "actors/device_worker.hpp"
#include "actors/engine_messages.hpp"
#include "actors/tower_runs.hpp"
#include "model/vision/vision_runner.hpp"
#include "model/vision/vision_staging.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <caf/typed_response_promise.hpp>

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>

namespace troupe::actors {

struct vision_tower_state {
  std::optional<model::vision_staging> staging;
  std::unique_ptr<model::vision_runner> runner;
  std::optional<tower_runs> runs;  // of the runner
  std::deque<caf::typed_response_promise<media_encoded>> promises;  // of the unfinished runs
  bool counted = false;            // the counters below are set
  int64_t graph_captures_at_start = 0;
  int64_t arena_allocations_at_start = 0;
  static inline const char* name = "vision_tower";
};

/// Owns the vision runner on a thread of its own: spawned detached, beside the shard of rank 0 whose device
/// it shares. Gives the device its runs in slices, as the turns in `options` say (which there must be), the
/// next while one goes on, and answers each when its rows are there.
vision_tower_actor::behavior_type vision_tower(
    vision_tower_actor::stateful_pointer<vision_tower_state> self, device_worker_options options);

}  // namespace troupe::actors
