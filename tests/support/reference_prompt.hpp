#pragma once

#include "config/model_config.hpp"
#include "model/plan/prompt.hpp"
#include "model/vision/image_processor.hpp"
#include "model/vision/vision_runner.hpp"
#include "support/reference_set.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::testing {

/// Tokens, positions and spans of a reference case, as the reference implementation saw them.
plan::prompt prompt_of(const reference_case& example, const config::model_config& model);

/// Its pictures or its clip, decoded and processed here.
std::vector<model::patch_rows> patches_of(const reference_case& example,
                                          const config::preprocessor_config& config,
                                          gpu::dtype type = gpu::dtype::f32);
/// The same from the reference's own pixels, where the set has them; else empty.
std::vector<model::patch_rows> reference_patches_of(const reference_set& set,
                                                    const reference_case& example);

/// Pictures encoded together, with neighbouring pool rows from `first_row` on. The items look into the
/// pictures' pixels.
struct placed_pictures {
  std::vector<model::encode_item> items;
  std::vector<int32_t> rows;  // of all items, in order
};
placed_pictures place(const std::vector<model::patch_rows>& pictures, int32_t merge_size,
                      int32_t first_row);

/// ||a - b|| / ||b||, and the largest difference of two entries.
double relative_error(const std::vector<float>& found, const std::vector<float>& expected);
double largest_difference(const std::vector<float>& found, const std::vector<float>& expected);

}  // namespace troupe::testing
