#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/plan/step_plan.hpp"
#include "model/step_fingerprint.hpp"
#include "model/step_neighbour.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"
#include "transport/symmetric_arena.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace troupe::model {

/// A plan this rank will not run, with every reason. Nothing was changed.
class plan_refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// A collective did not finish within its bound: a peer is late or the group was aborted.
class peer_lost : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// How a rank runs the kernels of a step: as the bucket's graph, or the same ones without it.
enum class step_mode : uint8_t { graph, eager };

/// What running a step a second time, eagerly, gave.
struct step_verification {
  plan::step_result result;  // of the eager run
  std::string difference;    // what the first run got differently; empty: every bit is the same
};

struct runner_options {
  gpu::dtype activation = gpu::dtype::bf16;  // f32 or bf16; the KV cache has the same dtype
  bool eager = false;                        // run the same kernels without graphs
  uint64_t epoch = 1;
  std::vector<uint8_t> token_mask;  // [vocab] 0 = never sampled; empty: every token may be
  /// Captures without peers, on the memory of an aborted group, where nobody is waited for: to
  /// `join` one whose other ranks captured long ago.
  bool alone = false;
  std::shared_ptr<step_neighbour> neighbour = {};  // may be null
};

/// One rank's text model: memory, graphs and the execution of step plans. Lives on one thread.
class model_runner {
 public:
  /// Reserves and seals all memory and prepares weights. Nothing is allocated after `capture`. A
  /// single rank may come without `symmetric`. Throws gpu::error, transport::error.
  model_runner(std::unique_ptr<gpu::operations> operations, const config::model_config& model,
               const plan::plan_limits& limits, text_weights weights,
               std::unique_ptr<transport::symmetric_arena> symmetric, visual_pool pool,
               runner_options options);
  ~model_runner();

  /// Warms and captures the graph of every token bucket; `progress(done, total)` after each.
  /// Returns the digest over all manifests' shapes: ranks compare it before the group serves.
  gpu::digest128 capture(const std::function<void(int32_t, int32_t)>& progress);

  /// Runs one plan: copies it into the input arena, replays the bucket's graph (or runs the
  /// operations eagerly), returns what was sampled. Throws plan_refused (wrong epoch or step,
  /// faults against the limits, retired memory), peer_lost; after peer_lost every later plan is
  /// refused, until the rank joins another group.
  plan::step_result run(const plan::step_plan& plan, step_mode mode = step_mode::graph);

  /// Runs `plan`, which must be the step that ran last, once more without its graph, and compares
  /// sampled tokens, logits and residual stream bit by bit; also that the graph's manifest is what
  /// was captured. The inputs are those the step left on the device. The visual rows it read must
  /// still be there. What the eager run wrote stays: keys and values, and the sampled tokens that
  /// the next step refers to. All ranks of a group must do it at once. Throws as `run` does.
  step_verification verify(const plan::step_plan& plan);

  /// Leaves the group it was in, if any, for that of `epoch`, whose symmetric memory (of the same
  /// lanes, for as many ranks) it maps: weights, graphs and all addresses stay; keys, values and
  /// whatever else the old group computed count for nothing, and steps begin at 1. Returns what
  /// `capture` did. What this rank has in flight ends first: within the bound of a collective, at
  /// once if the old group was aborted. Throws gpu::error, transport::error; then every plan is
  /// refused.
  gpu::digest128 join(const std::vector<int>& symmetric_descriptors, uint64_t epoch);

  /// Ends this rank's memory: every later plan is refused as stale. For whoever replaces the group;
  /// with `guard` any touch of the memory faults (tests).
  void retire(bool guard = false);

  /// What `plan`, the step that ran last, computed: for tests.
  step_fingerprint fingerprint(const plan::step_plan& plan);
  /// Logits [vocab] of row `row` of the last step: for tests.
  std::vector<float> logits(int32_t row) const;
  /// Memory by owner, for `troupe plan` and /metrics.
  std::vector<gpu::ledger_entry> ledger() const;

  /// The largest symmetric lane message for these limits, for whoever makes the memory.
  static transport::lane_request lane(const config::model_config& model,
                                      const plan::plan_limits& limits, int32_t tp_size);

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
