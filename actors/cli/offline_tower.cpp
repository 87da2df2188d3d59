#include "actors/cli/offline_tower.hpp"

#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"

#include <exception>
#include <memory>
#include <utility>

namespace troupe::cli {
namespace {

constexpr uint64_t weights_seed = 2;

std::unique_ptr<model::vision_runner> open(const offline_tower::settings& chosen) {
  gpu::use_device(chosen.backend);
  auto options = chosen.runner;
  options.max_slice_flops = actors::slice_flops(chosen.slice, chosen.backend);
  auto pool =
      model::visual_pool::map(chosen.model, chosen.runner.activation, chosen.pool_rows,
                              gpu::shared_memory_on(chosen.backend.device), chosen.pool_descriptor);
  auto runner = std::make_unique<model::vision_runner>(
      gpu::make_operations(chosen.backend), chosen.model,
      model::random_vision_weights(chosen.model, weights_seed), std::move(pool), options);
  runner->capture({});
  chosen.turns->open(chosen.slice);
  return runner;
}

}  // namespace

offline_tower::offline_tower(const settings& chosen) {
  std::promise<void> opened;
  auto done = opened.get_future();
  thread_ = std::thread(
      [this, chosen, opened = std::move(opened)]() mutable { serve(chosen, std::move(opened)); });
  try {
    done.get();
  } catch (...) {
    thread_.join();
    throw;
  }
}

offline_tower::~offline_tower() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_one();
  thread_.join();
}

std::future<void> offline_tower::encode(const model::patch_rows& patches,
                                        std::vector<int32_t> pool_rows) {
  task next{{{patches.grid, patches.pixels, std::move(pool_rows)}}, {}};
  auto done = next.done.get_future();
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(next));
  }
  changed_.notify_one();
  return done;
}

void offline_tower::serve(const settings& chosen, std::promise<void> opened) {
  std::unique_ptr<model::vision_runner> runner;
  try {
    runner = open(chosen);
  } catch (...) {
    opened.set_exception(std::current_exception());
    return;
  }
  opened.set_value();
  actors::tower_runs runs(*runner, *chosen.turns);
  while (take_tasks(runs)) advance(runs);
}

/// Waits for some if nothing is unfinished. False when it is time to end.
bool offline_tower::take_tasks(actors::tower_runs& runs) {
  std::unique_lock lock(mutex_);
  if (unfinished_.empty()) changed_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
  for (auto& next : std::exchange(tasks_, {})) {
    runs.add(std::move(next.items));
    unfinished_.push_back(std::move(next.done));
  }
  return !unfinished_.empty();
}

void offline_tower::advance(actors::tower_runs& runs) {
  try {
    for (int32_t finished = runs.advance(); finished > 0; --finished) {
      unfinished_.front().set_value();
      unfinished_.pop_front();
    }
  } catch (...) {
    for (auto& waiting : std::exchange(unfinished_, {}))
      waiting.set_exception(std::current_exception());
  }
  if (!unfinished_.empty()) std::this_thread::sleep_for(actors::tower_poll_interval);
}

}  // namespace troupe::cli
