#include "model/vision/image_processor.hpp"

#include "config/ensure.hpp"
#include "gpu/bfloat16.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace troupe::model {
namespace {

constexpr int32_t side_ratio_max = 200;
constexpr int32_t video_temporal_factor = 2;  // frames are counted in pairs
constexpr int32_t channels = 3;

void check_shape(image_size size) {
  const int64_t longer = std::max(size.height, size.width);
  const int64_t shorter = std::min(size.height, size.width);
  if (shorter < 1 || longer > side_ratio_max * shorter)
    throw image_error(
        image_error::reason::bad_shape,
        fmt::format("the picture has {}x{} pixels, expected sides of at least 1 and one "
                    "side at most {} times the other",
                    size.width, size.height, side_ratio_max));
}

/// A size in the reference's arithmetic: float64, which holds every side and area exactly.
struct real_size {
  double height = 0;
  double width = 0;

  double area() const { return height * width; }

  template <class Change>
  real_size each(Change change) const {
    return {change(height), change(width)};
  }
};

/// The multiples of `factor` nearest to `input`, or, where `frames` pictures of that size leave the
/// bounds, those below or above the size that `cost` pixels scale to.
image_size fit_to_bounds(real_size input, double frames, double cost, int32_t factor,
                         int64_t min_pixels, int64_t max_pixels) {
  auto fitted = input.each([&](double side) { return std::nearbyint(side / factor) * factor; });
  const auto least = static_cast<double>(min_pixels);
  const auto most = static_cast<double>(max_pixels);
  if (frames * fitted.area() > most) {
    const double shrink = std::sqrt(cost / most);
    fitted = input.each([&](double side) {
      return std::max<double>(factor, std::floor(side / shrink / factor) * factor);
    });
  } else if (frames * fitted.area() < least) {
    const double grow = std::sqrt(least / cost);
    fitted = input.each([&](double side) { return std::ceil(side * grow / factor) * factor; });
  }
  if (std::max(fitted.area(), frames * fitted.area()) > std::numeric_limits<int32_t>::max())
    throw image_error(
        image_error::reason::too_large,
        fmt::format("the picture would be resized to {}x{} pixels, expected its area to "
                    "fit 31 bits",
                    fitted.width, fitted.height));
  return {static_cast<int32_t>(fitted.height), static_cast<int32_t>(fitted.width)};
}

patch_grid grid_of(image_size size, int32_t groups, const config::preprocessor_config& config) {
  return {groups, size.height / config.patch_size, size.width / config.patch_size};
}

int32_t groups_of(int32_t num_frames, int32_t temporal_patch_size) {
  return static_cast<int32_t>((int64_t{num_frames} + temporal_patch_size - 1) /
                              temporal_patch_size);
}

float rounded_to(float value, float) {
  return value;
}
gpu::bfloat16 rounded_to(float value, gpu::bfloat16) {
  return gpu::to_bfloat16(value);
}

/// The normalised value of each 8-bit value, per channel. The reference folds the 1/255 into mean
/// and std, then subtracts and divides in float32.
template <class T>
using normalisation = std::array<std::array<T, 256>, channels>;

template <class T>
normalisation<T> make_normalisation(const config::preprocessor_config& config) {
  normalisation<T> table;
  for (size_t channel = 0; channel < channels; ++channel) {
    const float mean = config.mean[channel] * 255.0f;
    const float deviation = config.std[channel] * 255.0f;
    for (size_t value = 0; value < 256; ++value)
      table[channel][value] = rounded_to((static_cast<float>(value) - mean) / deviation, T{});
  }
  return table;
}

/// Where one frame's patches go in the rows of a temporal group: pixels of type T.
template <class T>
class patch_writer {
 public:
  patch_writer(patch_rows& rows, const config::preprocessor_config& config)
      : rows_(rows),
        patch_size_(config.patch_size),
        temporal_patch_size_(config.temporal_patch_size),
        merge_size_(config.merge_size),
        normalised_(make_normalisation<T>(config)) {
    rows_.pixels.resize(size_t(rows_.grid.patches()) * row_width() * sizeof(T));
  }

  /// Writes `frame` as temporal slice `slice` of group `group`.
  void write(const rgb_image& frame, int32_t group, int32_t slice) {
    const auto& grid = rows_.grid;
    T* row = rows_.values<T>().data() + size_t(group) * grid.height * grid.width * row_width();
    for (int32_t block_y = 0; block_y < grid.height; block_y += merge_size_)
      for (int32_t block_x = 0; block_x < grid.width; block_x += merge_size_)
        for (int32_t y = block_y; y < block_y + merge_size_; ++y)
          for (int32_t x = block_x; x < block_x + merge_size_; ++x, row += row_width())
            write_patch(row, frame, y, x, slice);
  }

 private:
  size_t row_width() const {
    return size_t(channels) * temporal_patch_size_ * patch_size_ * patch_size_;
  }

  void write_patch(T* row, const rgb_image& frame, int32_t y, int32_t x, int32_t slice) const {
    const size_t plane = size_t(patch_size_) * patch_size_;
    const uint8_t* corner =
        frame.pixels.data() + channels * patch_size_ * (size_t(y) * frame.width + x);
    for (size_t channel = 0; channel < channels; ++channel) {
      T* out = row + (channel * temporal_patch_size_ + slice) * plane;
      const uint8_t* line = corner + channel;
      for (int32_t py = 0; py < patch_size_; ++py, line += size_t(channels) * frame.width)
        for (int32_t px = 0; px < patch_size_; ++px)
          *out++ = normalised_[channel][line[channels * px]];
    }
  }

  patch_rows& rows_;
  int32_t patch_size_;
  int32_t temporal_patch_size_;
  int32_t merge_size_;
  normalisation<T> normalised_;
};

/// Writes the rows of frames whose resized size is known. Frame i of the clip is `frame_at(i)`; the
/// last one fills what its temporal group lacks.
template <class T, class FrameAt>
void write_frames(patch_rows& rows, int32_t num_frames, image_size size,
                  const config::preprocessor_config& config, FrameAt frame_at) {
  patch_writer<T> writer(rows, config);
  const int32_t num_slices = rows.grid.t * config.temporal_patch_size;
  for (int32_t i = 0; i < num_frames; ++i) {
    const rgb_image& frame = frame_at(i);
    rgb_image resized;
    if (frame.size() != size) resized = resize_bicubic(frame, size);
    const rgb_image& fitting = frame.size() == size ? frame : resized;
    const int32_t last_slice = i + 1 < num_frames ? i : num_slices - 1;
    for (int32_t slice = i; slice <= last_slice; ++slice)
      writer.write(fitting, slice / config.temporal_patch_size, slice % config.temporal_patch_size);
  }
}

template <class FrameAt>
patch_rows patchify(int32_t num_frames, image_size size, const config::preprocessor_config& config,
                    gpu::dtype type, FrameAt frame_at) {
  config::ensure(type == gpu::dtype::f32 || type == gpu::dtype::bf16, "pixels of dtype {}",
                 static_cast<int>(type));
  patch_rows rows;
  rows.grid = grid_of(size, groups_of(num_frames, config.temporal_patch_size), config);
  rows.type = type;
  if (type == gpu::dtype::bf16)
    write_frames<gpu::bfloat16>(rows, num_frames, size, config, frame_at);
  else
    write_frames<float>(rows, num_frames, size, config, frame_at);
  return rows;
}

image_size resized_image_size(image_size size, const config::preprocessor_config& config) {
  return smart_resize(size, config.factor(), config.image_min_pixels, config.image_max_pixels);
}

image_size resized_video_size(int32_t num_frames, image_size size,
                              const config::preprocessor_config& config) {
  return smart_resize_video(num_frames, size, config.factor(), config.video_min_pixels,
                            config.video_max_pixels);
}

void check_frames(const std::vector<rgb_image>& frames) {
  if (frames.empty())
    throw image_error(image_error::reason::bad_shape,
                      "the clip has no frames, expected at least 1");
  for (size_t i = 1; i < frames.size(); ++i) {
    if (frames[i].size() == frames[0].size()) continue;
    throw image_error(
        image_error::reason::bad_shape,
        fmt::format("frame {} of the clip has {}x{} pixels, expected {}x{} as the first", i,
                    frames[i].width, frames[i].height, frames[0].width, frames[0].height));
  }
}

}  // namespace

image_size smart_resize(image_size input, int32_t factor, int64_t min_pixels, int64_t max_pixels) {
  check_shape(input);
  const real_size size{double(input.height), double(input.width)};
  return fit_to_bounds(size, 1, size.area(), factor, min_pixels, max_pixels);
}

image_size smart_resize_video(int32_t num_frames, image_size input, int32_t factor,
                              int64_t min_pixels, int64_t max_pixels) {
  check_shape(input);
  if (num_frames < 1)
    throw image_error(image_error::reason::bad_shape,
                      fmt::format("the clip has {} frames, expected at least 1", num_frames));
  real_size size{double(input.height), double(input.width)};
  if (std::min(size.height, size.width) < factor) {
    const double grow = std::max(factor / size.height, factor / size.width);
    size = size.each([grow](double side) { return std::trunc(side * grow); });
  }
  const double frames =
      std::nearbyint(double(num_frames) / video_temporal_factor) * video_temporal_factor;
  return fit_to_bounds(size, frames, num_frames * size.area(), factor, min_pixels, max_pixels);
}

patch_rows process_image(const rgb_image& image, const config::preprocessor_config& config,
                         gpu::dtype type) {
  return patchify(1, resized_image_size(image.size(), config), config, type,
                  [&image](int32_t) -> const rgb_image& { return image; });
}

patch_rows process_video(const std::vector<rgb_image>& frames,
                         const config::preprocessor_config& config, gpu::dtype type) {
  check_frames(frames);
  const auto num_frames = static_cast<int32_t>(frames.size());
  return patchify(num_frames, resized_video_size(num_frames, frames[0].size(), config), config, type,
                  [&frames](int32_t i) -> const rgb_image& { return frames[i]; });
}

patch_grid image_grid(image_size size, const config::preprocessor_config& config) {
  return grid_of(resized_image_size(size, config), 1, config);
}

patch_grid video_grid(int32_t num_frames, image_size size,
                      const config::preprocessor_config& config) {
  return grid_of(resized_video_size(num_frames, size, config),
                 groups_of(num_frames, config.temporal_patch_size), config);
}

std::vector<double> group_timestamps(int32_t num_frames, double sample_fps,
                                     int32_t temporal_patch_size) {
  std::vector<double> times;
  for (int32_t first = 0; first < num_frames; first += temporal_patch_size) {
    const int32_t last = std::min(first + temporal_patch_size, num_frames) - 1;
    times.push_back((first / sample_fps + last / sample_fps) / 2);
  }
  return times;
}

}  // namespace troupe::model
