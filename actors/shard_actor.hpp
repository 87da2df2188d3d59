#pragma once

#include "actors/device_worker.hpp"
#include "actors/engine_messages.hpp"
#include "model/model_runner.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <cstdint>
#include <memory>

namespace troupe::actors {

struct shard_state {
  std::unique_ptr<model::model_runner> runner;
  bool counted = false;  // the counters below are set
  int64_t graph_captures_at_start = 0;
  int64_t arena_allocations_at_start = 0;
  static inline const char* name = "shard";
};

/// One tensor-parallel rank: owns its runner on one thread for life (spawned detached, in the node's process
/// or in one of its own). Runs the plans it is given or says why not; decides nothing.
shard_actor::behavior_type shard(shard_actor::stateful_pointer<shard_state> self,
                                 device_worker_options options);

}  // namespace troupe::actors
