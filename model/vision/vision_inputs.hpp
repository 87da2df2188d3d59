#pragma once

#include "config/model_config.hpp"
#include "gpu/operations.hpp"
#include "model/input_block.hpp"
#include "model/vision/vision_runner.hpp"

#include <cstdint>
#include <vector>

namespace troupe::model {

/// Where an encoder run finds its inputs: addresses that never move, equal for every budget.
struct vision_views {
  gpu::live_count patches;
  gpu::live_count segments;
  gpu::live_count merged_rows;
  gpu::tensor_view segment_start;  // [max_segments + 1] i32: a segment is one frame
  gpu::tensor_view coordinates;    // [max_patches, 4] i32: row, column, grid height, grid width
  gpu::tensor_view destination;    // [max_patches / merge_unit] i32: pool row of each merged row
  gpu::tensor_view pixels;         // [max_patches, patch_width] activation
};

/// The input arenas of the vision tower and the way of processed pictures into them.
class vision_inputs {
 public:
  vision_inputs(const config::vision_config& config, const vision_options& options,
                gpu::operations& backend);

  /// Sends items whose sizes were checked, behind what was issued before: what describes them by one
  /// copy, and the pixels of each as they are, which may be changed once they have been read.
  void load(gpu::operations& backend, const std::vector<encode_item>& items);

  const vision_views& views() const { return views_; }
  std::vector<const gpu::arena*> arenas() const { return {&block_.arena(), &pixel_arena_}; }

 private:
  void pack_coordinates(int32_t first_patch, const patch_grid& grid);

  int32_t merge_size_;
  input_block block_;
  input_block::field counts_, segment_start_, destination_, coordinates_;
  gpu::arena pixel_arena_;
  vision_views views_;
};

}  // namespace troupe::model
