#pragma once

#include "config/model_config.hpp"

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// A picture that cannot be used. `code` is the API's error code.
class image_error : public std::runtime_error {
 public:
  enum class reason : uint8_t { unsupported_format, corrupt, too_large, bad_shape };
  image_error(reason why, const std::string& what) : std::runtime_error(what), why_(why) {}
  reason why() const noexcept { return why_; }

 private:
  reason why_;
};

enum class image_format : uint8_t { png, jpeg, webp };

struct image_header {
  image_format format = image_format::png;
  int32_t width = 0;   // as stored, before EXIF orientation
  int32_t height = 0;
};

/// Size and format from the first bytes, without decoding. Throws image_error.
image_header read_image_header(std::string_view bytes);

/// 8-bit RGB, rows top down, no padding: pixels [height, width, 3].
struct rgb_image {
  int32_t width = 0;
  int32_t height = 0;
  std::vector<uint8_t> pixels;
};

/// Decodes PNG, JPEG or WebP to RGB. Alpha is dropped, EXIF orientation is applied (what the reference
/// processor does). Refuses before decoding if width * height exceeds `max_pixels`. Throws image_error.
rgb_image decode_image(std::string_view bytes, int64_t max_pixels);

struct image_size {
  int32_t height = 0;
  int32_t width = 0;
  bool operator==(const image_size&) const = default;
};

/// smart_resize of the processor: both sides multiples of `factor`, area within the bounds. Throws
/// image_error(bad_shape) if one side is over 200 times the other or a side is 0.
image_size smart_resize(image_size input, int32_t factor, int64_t min_pixels, int64_t max_pixels);

/// The video form: bounds on frames * height * width, frames rounded to pairs.
image_size smart_resize_video(int32_t num_frames, image_size input, int32_t factor,
                              int64_t min_pixels, int64_t max_pixels);

/// Antialiased bicubic on 8-bit channels, bit-equal to the reference processor on the CPU.
rgb_image resize_bicubic(const rgb_image& input, image_size output);

/// A patch grid: t temporal groups of height x width patches.
struct patch_grid {
  int32_t t = 0;
  int32_t height = 0;
  int32_t width = 0;

  int32_t patches() const { return t * height * width; }
  int32_t visual_tokens(int32_t merge_size) const { return patches() / (merge_size * merge_size); }
  bool operator==(const patch_grid&) const = default;
};

/// Rows for the vision tower: pixels [patches, channels * temporal * patch * patch] f32, normalised,
/// merge-block-major.
struct patch_rows {
  patch_grid grid;
  std::vector<float> pixels;
};

/// Resizes, normalises and patchifies one picture (repeated in time).
patch_rows process_image(const rgb_image& image, const config::preprocessor_config& config);

/// The same for the frames of a clip, which all have one size; an odd count repeats the last frame.
patch_rows process_video(const std::vector<rgb_image>& frames,
                         const config::preprocessor_config& config);

/// Grids without pixels, for admission.
patch_grid image_grid(image_size size, const config::preprocessor_config& config);
patch_grid video_grid(int32_t num_frames, image_size size,
                      const config::preprocessor_config& config);

/// Times printed before the temporal groups of a clip of frames sampled at `sample_fps`: the mean of
/// the two frames of a group, in seconds.
std::vector<double> group_timestamps(int32_t num_frames, double sample_fps,
                                     int32_t temporal_patch_size);

}  // namespace troupe::model
