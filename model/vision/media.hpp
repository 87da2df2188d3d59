#pragma once

#include "config/model_config.hpp"
#include "model/vision/image_processor.hpp"

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe::model {

/// Encoded bytes of one picture, shared between the request and whoever decodes it.
using encoded_image = std::shared_ptr<const std::string>;

/// One picture or clip of a request as it came in: encoded bytes, and what their headers say.
struct media_item {
  bool video = false;
  double sample_fps = 2;              // clips only
  std::vector<encoded_image> frames;  // a picture has one
  int64_t pixels = 0;                 // of all frames, from the headers: what decoding will cost
  patch_grid grid;                    // from the headers
};

/// Reads the header of a picture and computes its grid; no pixel is decoded. Throws image_error.
media_item make_picture(encoded_image bytes, const config::preprocessor_config& config);

/// The same for the frames of a clip in time order, sampled at `sample_fps` (finite, over 0).
/// Throws image_error: bad_shape for no frames, frames of different sizes or a rate that is not
/// one.
media_item make_clip(std::vector<encoded_image> frames, double sample_fps,
                     const config::preprocessor_config& config);

}  // namespace troupe::model
