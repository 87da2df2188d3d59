#pragma once

#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "gpu/operations.hpp"
#include "model/model_runner.hpp"
#include "model/plan/step_plan.hpp"
#include "model/vision/vision_runner.hpp"
#include "model/vision/visual_pool.hpp"
#include "support/worker_thread.hpp"
#include "transport/symmetric_arena.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace troupe::testing {

/// Limits that hold all cases of a reference set at once, with several steps per long prompt.
plan::plan_limits reference_limits(const config::model_config& model);

/// What this run of the tests is about: the CPU, or CUDA if TROUPE_TEST_DEVICE is "cuda".
gpu::device_kind tested_device();

struct group_options {
  std::string checkpoint;  // folder below fixtures()
  int32_t tp_size = 1;
  gpu::dtype activation = gpu::dtype::f32;
  bool eager = false;
  std::chrono::milliseconds timeout{120'000};  // of a rank that waits for its peers
  gpu::device_kind device = tested_device();
  int32_t num_devices = 1;  // cuda: rank r runs on device r % num_devices, the encoder on the first
  /// Makes the backend of a rank; empty: that of `device`.
  std::function<std::unique_ptr<gpu::operations>()> backend = {};
  std::vector<int32_t> token_buckets = {};  // empty: those of `reference_limits`
  int32_t max_patches = 1024;               // of an encoder run
  double max_slice_flops =
      1;  // of the encoder: every part a slice, the hardest case; 0: whole runs

  gpu::backend_options backend_options(int32_t rank = 0) const;
};

/// A tensor-parallel group without actors: one model runner per rank, each on a thread of its own,
/// one vision runner, one visual pool.
class runner_group {
 public:
  explicit runner_group(const group_options& options);
  ~runner_group();

  const config::checkpoint_config& checkpoint() const { return checkpoint_; }
  const plan::plan_limits& limits() const { return limits_; }
  model::visual_pool& pool() { return *pool_; }
  const std::vector<gpu::digest128>& graph_digests() const { return digests_; }

  /// Runs the plan on all ranks at once. All must report the same digest and tokens; a rank's
  /// exception is thrown here (the first rank's, when all have answered).
  plan::step_result run(const plan::step_plan& plan);
  /// Verifies it, the last one that ran, on all ranks at once; all must agree as above.
  model::step_verification verify(const plan::step_plan& plan);
  /// Runs it on one rank, and returns what comes of it there.
  std::future<plan::step_result> run_on(int32_t rank, const plan::step_plan& plan);
  void encode(const std::vector<model::encode_item>& items);

  /// What each rank computed in `plan`, the step that ran last.
  std::vector<model::step_fingerprint> fingerprints(const plan::step_plan& plan);

  /// Memory of the group as bytes, wherever it lies.
  std::vector<std::byte> read_bytes(const gpu::tensor_view& view);
  void write_bytes(const gpu::tensor_view& view, const std::vector<std::byte>& bytes);
  /// Values of f32 memory of the group, wherever it lies.
  std::vector<float> read(const gpu::tensor_view& view);
  void write(const gpu::tensor_view& view, const std::vector<float>& values);

  int32_t tp_size() const { return static_cast<int32_t>(ranks_.size()); }
  /// Logits of row `row` of the last step on rank 0.
  std::vector<float> logits(int32_t row);
  /// Calls `task(runner)` on the rank's thread.
  template <class Task>
  auto on_rank(int32_t rank, Task task) {
    auto& own = *ranks_[static_cast<size_t>(rank)];
    return own.thread.call([&] { return task(*own.runner); });
  }
  /// Calls `task(encoder)` on the encoder's thread.
  template <class Task>
  auto on_encoder(Task task) {
    return encoder_thread_.call([&] { return task(*encoder_); });
  }
  void abort() { symmetric_.abort(); }
  /// A new group of `epoch` in new symmetric memory: the ranks of `replaced` are made anew, on the
  /// memory of the old group, which must be aborted; all others stay what they are and join.
  void begin_anew(uint64_t epoch, const std::vector<int32_t>& replaced);
  const transport::symmetric_memory& symmetric() const { return symmetric_; }

  /// What an encoder run of a group holds, unless its options say something else.
  static constexpr int32_t max_patches = 1024;
  static constexpr int32_t max_segments = 16;

 private:
  struct rank_state {
    std::unique_ptr<model::model_runner> runner;
    worker_thread thread;  // after the runner: it makes, runs and destroys it
  };

  model::visual_pool map_pool(const group_options& options) const;
  void start_rank(int32_t rank, const group_options& options, bool alone = false);
  void start_encoder(const group_options& options);

  group_options options_;
  config::checkpoint_config checkpoint_;
  plan::plan_limits limits_;
  transport::symmetric_memory symmetric_;
  std::unique_ptr<model::visual_pool> pool_;
  std::vector<std::unique_ptr<rank_state>> ranks_;
  std::vector<gpu::digest128> digests_;
  std::unique_ptr<gpu::operations> copier_;  // lives on the encoder's thread, like the encoder
  std::unique_ptr<model::vision_runner> encoder_;
  worker_thread encoder_thread_;
};

}  // namespace troupe::testing
