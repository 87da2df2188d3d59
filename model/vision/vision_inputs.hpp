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

/// The input arena of the vision tower and the way of processed pictures into it.
class vision_inputs {
 public:
  vision_inputs(const config::vision_config& config, const vision_options& options,
                gpu::operations& backend);

  /// Sends items whose sizes were checked by one copy, pixels rounded to the activation dtype.
  void load(gpu::operations& backend, const std::vector<encode_item>& items);

  const vision_views& views() const { return views_; }
  const gpu::arena& arena() const { return block_.arena(); }

 private:
  void pack_coordinates(int32_t first_patch, const patch_grid& grid);
  void pack_pixels(int32_t first_patch, const std::vector<float>& pixels);

  int32_t merge_size_;
  int32_t patch_width_;
  gpu::dtype activation_;
  input_block block_;
  input_block::field counts_, segment_start_, coordinates_, destination_, pixels_;
  vision_views views_;
};

}  // namespace troupe::model
