#pragma once

#include "actors/scheduling/step_planner.hpp"
#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/engine_limits.hpp"
#include "model/model_runner.hpp"

#include <cstdint>
#include <memory>
#include <vector>

namespace troupe::cli {

/// Planner and one rank on the calling thread, without actors: random weights of a shape, for
/// measurements of the model alone.
class offline_model {
 public:
  offline_model(const config::model_config& model, const config::engine_config& engine,
                const gpu::backend_options& backend);
  ~offline_model();

  /// A text request of random tokens that generates exactly `max_tokens`.
  void submit(int32_t prompt_tokens, int32_t max_tokens);

  struct step_times {
    int32_t tokens = 0;       // computed in the step
    int32_t rows = 0;         // sampled
    double run_seconds = 0;   // copy of the plan, replay, results
    double wall_seconds = 0;  // with planning
  };
  /// One step; tokens 0 when nothing is left to do.
  step_times step();

  const model::engine_limits& limits() const { return limits_; }

 private:
  model::engine_limits limits_;
  std::unique_ptr<model::model_runner> runner_;
  std::unique_ptr<scheduling::step_planner> planner_;
  uint64_t next_id_ = 1;
};

/// Processor settings of the released checkpoints, for shapes without files.
config::checkpoint_config shape_checkpoint(const config::model_config& model);

}  // namespace troupe::cli
