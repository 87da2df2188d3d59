#include "model/vision/vision_inputs.hpp"

#include "gpu/bfloat16.hpp"
#include "model/parallel_slices.hpp"

#include <algorithm>
#include <cstring>

namespace troupe::model {
namespace {

/// Places of the live counts inside the field `counts`.
enum count_index : int32_t { count_patches, count_segments, count_merged_rows, num_counts };

// Values that make it worth starting a thread.
constexpr int64_t pack_grain = 512 * 1024;

struct patch_coordinates {
  int32_t row, column, grid_height, grid_width;
};

}  // namespace

vision_inputs::vision_inputs(const config::vision_config& config, const vision_options& options,
                             gpu::operations& backend)
    : merge_size_(config.spatial_merge_size),
      patch_width_(config.patch_width()),
      activation_(options.activation),
      block_("vision_input", backend.memory()) {
  using enum gpu::dtype;
  const int64_t patches = options.max_patches;
  counts_ = block_.reserve("counts", i32, {num_counts});
  segment_start_ = block_.reserve("segment_start", i32, {int64_t{options.max_segments} + 1});
  coordinates_ = block_.reserve("coordinates", i32, {patches, 4});
  destination_ = block_.reserve("destination", i32, {patches / config.merge_unit()});
  pixels_ = block_.reserve("pixels", activation_, {patches, patch_width_});
  block_.seal(backend);

  const int32_t* counts = block_.device(counts_).as<int32_t>();
  views_.patches.value = counts + count_patches;
  views_.segments.value = counts + count_segments;
  views_.merged_rows.value = counts + count_merged_rows;
  views_.segment_start = block_.device(segment_start_);
  views_.coordinates = block_.device(coordinates_);
  views_.destination = block_.device(destination_);
  views_.pixels = block_.device(pixels_);
}

void vision_inputs::load(gpu::operations& backend, const std::vector<encode_item>& items) {
  int32_t patches = 0;
  int32_t* segment_end = block_.host<int32_t>(segment_start_);
  int32_t* destination = block_.host<int32_t>(destination_);
  *segment_end = 0;
  for (const auto& item : items) {
    const patch_grid& grid = item.patches->grid;
    pack_coordinates(patches, grid);
    pack_pixels(patches, item.patches->pixels);
    for (int32_t frame = 1; frame <= grid.t; ++frame)
      *++segment_end = patches + frame * grid.height * grid.width;
    destination =
        std::copy(item.destination_rows.begin(), item.destination_rows.end(), destination);
    patches += grid.patches();
  }
  auto* counts = block_.host<int32_t>(counts_);
  counts[count_patches] = patches;
  counts[count_segments] = static_cast<int32_t>(segment_end - block_.host<int32_t>(segment_start_));
  counts[count_merged_rows] =
      static_cast<int32_t>(destination - block_.host<int32_t>(destination_));
  block_.send(backend, pixels_, int64_t{patches} * patch_width_ * gpu::size_of(activation_));
}

/// Patches come block by block (merge_size x merge_size), blocks in raster order, as the processor
/// wrote them; frames have equal coordinates.
void vision_inputs::pack_coordinates(int32_t first_patch, const patch_grid& grid) {
  auto* next = block_.host<patch_coordinates>(coordinates_) + first_patch;
  for (int32_t frame = 0; frame < grid.t; ++frame)
    for (int32_t top = 0; top < grid.height; top += merge_size_)
      for (int32_t left = 0; left < grid.width; left += merge_size_)
        for (int32_t row = top; row < top + merge_size_; ++row)
          for (int32_t column = left; column < left + merge_size_; ++column)
            *next++ = {row, column, grid.height, grid.width};
}

void vision_inputs::pack_pixels(int32_t first_patch, const std::vector<float>& pixels) {
  const int64_t offset = int64_t{first_patch} * patch_width_;
  for_slices(std::ssize(pixels), pack_grain, [&](int64_t first, int64_t last) {
    const auto from = pixels.begin() + first, end = pixels.begin() + last;
    if (activation_ == gpu::dtype::f32)
      std::copy(from, end, block_.host<float>(pixels_) + offset + first);
    else
      std::transform(from, end, block_.host<gpu::bfloat16>(pixels_) + offset + first,
                     gpu::to_bfloat16);
  });
}

}  // namespace troupe::model
