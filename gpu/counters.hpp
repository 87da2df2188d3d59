#pragma once

#include <cstdint>

namespace troupe::gpu {

/// What must not move after start: captures and arena allocations of this process so far. Tests and
/// the /metrics page read the difference to the values at the end of start-up.
struct counters {
  int64_t graph_captures = 0;
  int64_t arena_allocations = 0;
  int64_t graph_replays = 0;
  int64_t refused_replays = 0;
};

counters read_counters();
void count_capture();
void count_arena_allocation();
void count_replay();
void count_refused_replay();

}  // namespace troupe::gpu
