#pragma once

#include "config/model_config.hpp"
#include "gpu/tensor_view.hpp"
#include "model/vision/image.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// From upright pictures to rows for the vision tower: the arithmetic of the reference processor on
/// the CPU, bit for bit.
namespace troupe::model {

/// smart_resize of the processor: both sides multiples of `factor`, area within the bounds unless a
/// side of one `factor` forbids it. Throws image_error(bad_shape) if a side is under 1 or one side
/// is over 200 times the other.
image_size smart_resize(image_size input, int32_t factor, int64_t min_pixels, int64_t max_pixels);

/// The video form: bounds on frames * height * width, frames rounded to pairs (a half to even, so a
/// single frame counts as none and gets the lower bound, as in the reference).
image_size smart_resize_video(int32_t num_frames, image_size input, int32_t factor,
                              int64_t min_pixels, int64_t max_pixels);

/// Antialiased bicubic (Keys, a = -0.5) on 8-bit channels, in the fixed-point arithmetic of
/// torchvision on the CPU: rows first, rounded and clamped to 8 bits, then columns. Both sides of
/// `output` are at least 1. Source: Keys 1981; PyTorch's upsampling kernel for uint8.
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

/// Rows for the vision tower: pixels [patches, channels * temporal * patch * patch], normalised in
/// fp32 and rounded to `type` (f32 or bf16). Rows run through the merge blocks in raster order and
/// through the patches of a block in raster order; a row is laid out like one output channel's
/// weights of the patch embedding.
struct patch_rows {
  patch_grid grid;
  gpu::dtype type = gpu::dtype::f32;
  std::vector<std::byte> pixels;

  /// The pixels as what `type` says: float or gpu::bfloat16.
  template <class T>
  std::span<T> values() {
    return {reinterpret_cast<T*>(pixels.data()), pixels.size() / sizeof(T)};
  }
  template <class T>
  std::span<const T> values() const {
    return {reinterpret_cast<const T*>(pixels.data()), pixels.size() / sizeof(T)};
  }
};

/// Resizes, normalises and patchifies one picture (repeated in time); pixels of `type`. Throws
/// image_error(bad_shape).
patch_rows process_image(const rgb_image& image, const config::preprocessor_config& config,
                         gpu::dtype type = gpu::dtype::f32);

/// The same for the frames of a clip, which all have one size; the last frame is repeated to fill
/// the last temporal group. Throws image_error(bad_shape) for no frames or frames of different
/// sizes.
patch_rows process_video(const std::vector<rgb_image>& frames,
                         const config::preprocessor_config& config,
                         gpu::dtype type = gpu::dtype::f32);

/// Grids without pixels, for admission: `size` is upright. Throw as smart_resize does.
patch_grid image_grid(image_size size, const config::preprocessor_config& config);
patch_grid video_grid(int32_t num_frames, image_size size,
                      const config::preprocessor_config& config);

/// Times printed before the temporal groups of a clip of frames sampled at `sample_fps`: the mean
/// of the first and the last frame of a group, in seconds; the last frame is repeated to fill its
/// group.
std::vector<double> group_timestamps(int32_t num_frames, double sample_fps,
                                     int32_t temporal_patch_size);

}  // namespace troupe::model
