#include "model/vision/media.hpp"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace troupe::model {

media_item make_picture(encoded_image bytes, const config::preprocessor_config& config) {
  const image_header header = read_image_header(*bytes);
  media_item item;
  item.pixels = header.pixels();
  item.grid = image_grid(header.upright_size(), config);
  item.frames.push_back(std::move(bytes));
  return item;
}

media_item make_clip(std::vector<encoded_image> frames, double sample_fps,
                     const config::preprocessor_config& config) {
  if (frames.empty())
    throw image_error(image_error::reason::bad_shape, "a video has no frames, expected at least 1");
  if (!std::isfinite(sample_fps) || sample_fps <= 0)
    throw image_error(
        image_error::reason::bad_shape,
        fmt::format("a video is sampled at {} frames per second, expected a number over 0",
                    sample_fps));
  media_item item;
  item.video = true;
  item.sample_fps = sample_fps;
  const image_size first = read_image_header(*frames.front()).upright_size();
  for (size_t i = 0; i < frames.size(); ++i) {
    const image_header header = read_image_header(*frames[i]);
    const image_size size = header.upright_size();
    if (size != first)
      throw image_error(
          image_error::reason::bad_shape,
          fmt::format("frame {} of a video has {}x{} pixels, expected {}x{} as frame 0", i,
                      size.width, size.height, first.width, first.height));
    item.pixels += header.pixels();
  }
  item.grid = video_grid(static_cast<int32_t>(frames.size()), first, config);
  item.frames = std::move(frames);
  return item;
}

}  // namespace troupe::model
