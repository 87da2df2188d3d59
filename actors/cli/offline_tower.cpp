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
  auto pool =
      model::visual_pool::map(chosen.model, chosen.runner.activation, chosen.pool_rows,
                              gpu::shared_memory_on(chosen.backend.device), chosen.pool_descriptor);
  auto runner = std::make_unique<model::vision_runner>(
      gpu::make_operations(chosen.backend), chosen.model,
      model::random_vision_weights(chosen.model, weights_seed), std::move(pool), chosen.runner);
  runner->capture({});
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
  task next([&patches, rows = std::move(pool_rows)](model::vision_runner& runner) mutable {
    runner.encode({{patches.grid, patches.pixels, std::move(rows)}});
  });
  auto done = next.get_future();
  {
    const std::lock_guard lock(mutex_);
    tasks_.push(std::move(next));
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
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    task next = std::move(tasks_.front());
    tasks_.pop();
    lock.unlock();
    next(*runner);
    lock.lock();
  }
}

}  // namespace troupe::cli
