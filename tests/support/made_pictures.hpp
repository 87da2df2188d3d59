#pragma once

#include "config/model_config.hpp"
#include "gpu/tensor_view.hpp"
#include "model/vision/image_processor.hpp"

#include <cstdint>

namespace troupe::testing {

/// A picture of random pixels, equal for equal seeds, as the vision tower takes it.
model::patch_rows make_picture(const config::vision_config& config, model::patch_grid grid,
                               gpu::dtype type, uint32_t seed);

}  // namespace troupe::testing
