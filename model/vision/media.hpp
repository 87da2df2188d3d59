#pragma once

#include "model/vision/image_processor.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe::model {

/// One picture or clip of a request as it came in: encoded bytes, and what their headers say.
struct media_item {
  bool video = false;
  double sample_fps = 2;                                      // clips only
  std::vector<std::shared_ptr<const std::string>> frames;     // encoded; a picture has one
  patch_grid grid;                                            // from the headers
};

}  // namespace troupe::model
