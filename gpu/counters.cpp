#include "gpu/counters.hpp"

#include <atomic>

namespace troupe::gpu {
namespace {

std::atomic<int64_t> captures{0};
std::atomic<int64_t> allocations{0};
std::atomic<int64_t> replays{0};
std::atomic<int64_t> refusals{0};

}  // namespace

counters read_counters() {
  return {captures.load(), allocations.load(), replays.load(), refusals.load()};
}

void count_capture() { captures.fetch_add(1, std::memory_order_relaxed); }
void count_arena_allocation() { allocations.fetch_add(1, std::memory_order_relaxed); }
void count_replay() { replays.fetch_add(1, std::memory_order_relaxed); }
void count_refused_replay() { refusals.fetch_add(1, std::memory_order_relaxed); }

}  // namespace troupe::gpu
