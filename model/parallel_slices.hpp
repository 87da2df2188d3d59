#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace troupe::model {

/// Calls `work(first, last)` on slices of [0, count), each on a thread of its own but the last, which the
/// calling thread does. Slices have at least `grain` elements: starting a thread costs some tens of
/// microseconds. `work` must not throw.
template <class Work>
void for_slices(int64_t count, int64_t grain, const Work& work) {
  constexpr int64_t slices_max = 8;
  const int64_t cores = std::max(1U, std::thread::hardware_concurrency());
  const int64_t slices = std::clamp<int64_t>(count / grain, 1, std::min(slices_max, cores));
  const int64_t length = (count + slices - 1) / slices;
  std::vector<std::jthread> threads;
  for (int64_t first = 0; first + length < count; first += length)
    threads.emplace_back([&work, first, length] { work(first, first + length); });
  work(static_cast<int64_t>(threads.size()) * length, count);
}

}  // namespace troupe::model
