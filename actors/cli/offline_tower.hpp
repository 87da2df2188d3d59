#pragma once

#include "actors/device_turns.hpp"
#include "actors/tower_runs.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/vision/vision_runner.hpp"

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace troupe::cli {

/// A vision tower with random weights on a thread of its own, beside whatever else runs: what the tower's
/// actor is, without actors.
class offline_tower {
 public:
  struct settings {
    config::model_config model;
    model::vision_options runner;
    gpu::backend_options backend;
    std::shared_ptr<actors::device_turns> turns;  // with the model on the same device
    std::chrono::microseconds slice{0};           // of a run, between two steps; 0: whole runs
    int32_t pool_rows = 0;
    int pool_descriptor = -1;  // must stay open until the tower is made
  };

  /// Returns when the tower is captured. Throws what making it throws.
  explicit offline_tower(const settings& chosen);
  ~offline_tower();
  offline_tower(const offline_tower&) = delete;
  offline_tower& operator=(const offline_tower&) = delete;

  /// Encodes in the order of the calls. The future is ready when the rows are in the pool; `patches` must
  /// live until then.
  std::future<void> encode(const model::patch_rows& patches, std::vector<int32_t> pool_rows);

 private:
  /// A run to encode, and who waits for it.
  struct task {
    std::vector<model::encode_item> items;
    std::promise<void> done;
  };

  void serve(const settings& chosen, std::promise<void> opened);
  bool take_tasks(actors::tower_runs& runs);
  void advance(actors::tower_runs& runs);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<task> tasks_;
  bool stopping_ = false;
  std::deque<std::promise<void>> unfinished_;  // of the thread
  std::thread thread_;
};

}  // namespace troupe::cli
