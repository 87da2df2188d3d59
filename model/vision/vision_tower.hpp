#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/vision/patch_merger.hpp"
#include "model/vision/vision_block.hpp"
#include "model/vision/vision_inputs.hpp"
#include "model/vision/vision_slices.hpp"
#include "model/weights/model_weights.hpp"

#include <cstdint>
#include <vector>

namespace troupe::model {

/// The vision transformer with its mergers: memory, and operations in order. Knows no graphs and no
/// communicator.
class vision_tower {
 public:
  /// Reserves and seals all memory, places and prepares the weights. Merged rows go to `pool`
  /// [1 + levels, pool rows, out_hidden]: the main merger's to level 0, deepstack k's to level 1 +
  /// k.
  vision_tower(gpu::operations& backend, const config::vision_config& config,
               const vision_weights& weights, const vision_views& inputs,
               const gpu::tensor_view& pool, const vision_options& options);

  /// Issues some parts of an encoder run of a budget of patches. A run is all parts in order, and
  /// nothing else may use the tower's memory in between.
  void issue(int32_t budget_patches, part_range parts) const;
  /// What each part costs at most, in order: when one frame fills the budget.
  std::vector<double> part_flops(int32_t budget_patches) const;

  const std::vector<gpu::arena>& arenas() const { return arenas_; }

 private:
  /// What can run by itself between two other things, as small as it gets.
  struct part {
    enum class kind : uint8_t { embedding, attention, mlp, merger };
    kind what = kind::embedding;
    size_t index = 0;  // of the block or merger
  };

  static std::vector<part> make_parts(const config::vision_config& config);
  void issue(const part& wanted, const vision_step& step) const;
  void embed(const vision_step& step) const;
  void place_weights(gpu::operations& backend, const vision_weights& weights,
                     gpu::dtype activation);
  void prepare_linears(gpu::operations& backend, const vision_weights& weights,
                       gpu::dtype activation);
  void lay_out_activations(gpu::memory_kind kind, const vision_options& options);

  gpu::operations* backend_;
  config::vision_config config_;
  vision_views inputs_;
  gpu::linear_weight patch_embed_;
  gpu::tensor_view position_embedding_;  // [side * side, hidden]
  int32_t position_side_;
  std::vector<vision_block> blocks_;
  std::vector<patch_merger> mergers_;  // main, then one per deepstack level
  std::vector<part> parts_;            // in the order of a run
  vision_activations activations_;
  std::vector<gpu::arena> arenas_;  // weights, activations
};

}  // namespace troupe::model
