#include "model/vision/vision_inputs.hpp"

#include <algorithm>

namespace troupe::model {
namespace {

/// Places of the live counts inside the field `counts`.
enum count_index : int32_t { count_patches, count_segments, count_merged_rows, num_counts };

// The inputs of one run are packed while another goes on.
constexpr size_t runs_under_way = 2;

struct patch_coordinates {
  int32_t row, column, grid_height, grid_width;
};

}  // namespace

vision_inputs::vision_inputs(const config::vision_config& config, const vision_options& options,
                             gpu::operations& backend)
    : merge_size_(config.spatial_merge_size),
      block_("vision_input", backend.memory()),
      pixel_arena_("vision_pixels", backend.memory()) {
  using enum gpu::dtype;
  const int64_t patches = options.max_patches;
  counts_ = block_.reserve("counts", i32, {num_counts});
  segment_start_ = block_.reserve("segment_start", i32, {int64_t{options.max_segments} + 1});
  destination_ = block_.reserve("destination", i32, {patches / config.merge_unit()});
  // Last, because a copy ends with the last live entry: most pictures are far from the largest.
  coordinates_ = block_.reserve("coordinates", i32, {patches, 4});
  block_.seal(backend, runs_under_way);
  const auto pixels = pixel_arena_.reserve("pixels", options.activation, {patches, config.patch_width()});
  pixel_arena_.seal();

  const int32_t* counts = block_.device(counts_).as<int32_t>();
  views_.patches.value = counts + count_patches;
  views_.segments.value = counts + count_segments;
  views_.merged_rows.value = counts + count_merged_rows;
  views_.segment_start = block_.device(segment_start_);
  views_.coordinates = block_.device(coordinates_);
  views_.destination = block_.device(destination_);
  views_.pixels = pixel_arena_.view(pixels);
}

void vision_inputs::load(gpu::operations& backend, const std::vector<encode_item>& items) {
  block_.turn(backend);
  int32_t patches = 0;
  int32_t* segment_end = block_.host<int32_t>(segment_start_);
  int32_t* destination = block_.host<int32_t>(destination_);
  *segment_end = 0;
  for (const auto& item : items) {
    const patch_grid& grid = item.grid;
    pack_coordinates(patches, grid);
    backend.upload(views_.pixels.slice_rows(patches, grid.patches()), item.pixels.data(),
                   std::ssize(item.pixels));
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
  block_.send(backend, coordinates_, patches * int64_t{sizeof(patch_coordinates)});
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

}  // namespace troupe::model
