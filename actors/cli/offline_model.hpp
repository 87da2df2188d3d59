#pragma once

#include "actors/cli/rank_team.hpp"
#include "actors/placement.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "model/engine_limits.hpp"
#include "model/model_runner.hpp"
#include "transport/symmetric_arena.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

namespace troupe::cli {

/// Planner and ranks, the first on the calling thread, without actors: random weights of a shape,
/// for measurements of the model alone.
class offline_model {
 public:
  offline_model(const config::model_config& model, const config::engine_config& engine,
                const actors::placement& where,
                const std::shared_ptr<model::step_neighbour>& neighbour = nullptr);
  ~offline_model();

  /// A text request of random tokens that generates exactly `max_tokens`.
  uint64_t submit(int32_t prompt_tokens, int32_t max_tokens);
  /// A request whose pictures are in the visual pool already, in the rows of its spans.
  uint64_t submit(plan::prompt prompt, std::vector<int32_t> pool_rows, int32_t max_tokens);
  void cancel(uint64_t request);

  struct step_times {
    int32_t tokens = 0;       // computed in the step
    int32_t rows = 0;         // sampled
    double run_seconds = 0;   // copy of the plan, replay, results: of the slowest rank
    double wall_seconds = 0;  // with planning, and until all ranks have begun
  };
  /// One step; tokens 0 when nothing is left to do.
  step_times step();

  const model::engine_limits& limits() const { return limits_; }
  /// What a vision tower maps the pool by.
  int visual_pool_descriptor() const { return pool_->file_descriptor(); }

 private:
  std::unique_ptr<model::model_runner> make_runner(
      const config::model_config& model, bool eager, const actors::placement& where, int32_t rank,
      model::visual_pool pool, std::shared_ptr<model::step_neighbour> neighbour) const;
  /// A rank that fails takes the others out of their waits.
  void on_ranks(const std::function<void(int32_t)>& task);

  model::engine_limits limits_;
  std::optional<transport::symmetric_memory> symmetric_;  // of more than one rank
  std::optional<model::visual_pool> pool_;                // which every rank maps
  rank_team team_;
  std::vector<std::unique_ptr<model::model_runner>> runners_;  // [rank], each on its thread
  std::unique_ptr<scheduling::step_planner> planner_;
  uint64_t next_id_ = 1;
};

/// Random ids below `vocab_size`.
std::vector<int32_t> random_tokens(int32_t count, int32_t vocab_size, uint64_t seed);

/// Processor settings of the released checkpoints, for shapes without files.
config::checkpoint_config shape_checkpoint(const config::model_config& model);

}  // namespace troupe::cli
