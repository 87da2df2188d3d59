#pragma once

#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/vision/vision_runner.hpp"

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <future>
#include <mutex>
#include <queue>
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
  using task = std::packaged_task<void(model::vision_runner&)>;

  void serve(const settings& chosen, std::promise<void> opened);

  std::mutex mutex_;
  std::condition_variable changed_;
  std::queue<task> tasks_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace troupe::cli
