#include "gpu/host_meeting.hpp"

#include <atomic>
#include <chrono>
#include <thread>

namespace troupe::gpu {

void meet_hosts(const lane_view& lane) {
  const std::atomic_ref<uint32_t> arrivals(*lane.arrivals);
  const std::atomic_ref<uint32_t> own_arrivals(*lane.own_arrivals);
  const std::atomic_ref<const uint32_t> abort(*lane.abort_word);
  const auto deadline =
      std::chrono::steady_clock::now() + std::chrono::nanoseconds(lane.timeout_ns);
  arrivals.fetch_add(1);
  const uint32_t all = (own_arrivals.fetch_add(1) + 1) * static_cast<uint32_t>(lane.size);
  while (static_cast<int32_t>(arrivals.load() - all) < 0) {
    if (abort.load() != 0 || std::chrono::steady_clock::now() >= deadline) return;
    std::this_thread::yield();
  }
}

}  // namespace troupe::gpu
