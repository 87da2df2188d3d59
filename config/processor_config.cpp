#include "config/checkpoint_file.hpp"
#include "config/error.hpp"
#include "config/field_ranges.hpp"
#include "config/json_fields.hpp"
#include "config/model_config.hpp"

#include <fmt/format.h>

#include <cmath>
#include <limits>

namespace troupe::config {

namespace {

struct pixel_bounds {
  int64_t least;
  int64_t most;
};

/// `size.shortest_edge` and `size.longest_edge` are pixel counts in spite of their names; older
/// files say min_pixels and max_pixels.
pixel_bounds read_pixel_bounds(const json_fields& file) {
  const bool by_edges = file.has("size") || !file.has("min_pixels");
  const auto owner = by_edges ? file.object("size") : file;
  const auto least_key = by_edges ? "shortest_edge" : "min_pixels";
  const auto most_key = by_edges ? "longest_edge" : "max_pixels";
  const pixel_bounds bounds{owner.integer(least_key, ranges::pixel_counts),
                            owner.integer(most_key, ranges::pixel_counts)};
  if (bounds.least > bounds.most)
    owner.fail(most_key, fmt::format("found {}, expected at least {} = {}", bounds.most, least_key,
                                     bounds.least));
  return bounds;
}

std::array<float, 3> read_channels(const json_fields& file, std::string_view key,
                                   range<double> bounds) {
  const auto values = file.numbers(key, 3, bounds);
  return {static_cast<float>(values[0]), static_cast<float>(values[1]),
          static_cast<float>(values[2])};
}

/// Steps of the processor that we always do, in the one way we do them.
void expect_fixed_steps(const json_fields& file) {
  for (const auto* step : {"do_resize", "do_rescale", "do_normalize", "do_convert_rgb"})
    file.expect_boolean(step, true);
  constexpr double bicubic = 3;
  file.expect_number("resample", bicubic);
  if (file.has("rescale_factor") &&
      std::abs(file.number("rescale_factor", {0, 1}) * 255 - 1) > 1e-6)
    file.fail("rescale_factor", "expected 1/255");
}

void read_image_processor(const json_fields& file, preprocessor_config& result) {
  result.patch_size = file.size("patch_size", ranges::patch_sizes);
  result.temporal_patch_size = file.size("temporal_patch_size", ranges::temporal_patch_sizes);
  result.merge_size = file.size("merge_size", ranges::merge_sizes);
  result.mean = read_channels(file, "image_mean", {-1e3, 1e3});
  result.std = read_channels(file, "image_std", {1e-3, 1e3});
  const auto bounds = read_pixel_bounds(file);
  result.image_min_pixels = bounds.least;
  result.image_max_pixels = bounds.most;
  expect_fixed_steps(file);
}

void read_video_processor(const json_fields& file, preprocessor_config& result) {
  file.expect_number("patch_size", double(result.patch_size));
  file.expect_number("temporal_patch_size", double(result.temporal_patch_size));
  file.expect_number("merge_size", double(result.merge_size));
  if (read_channels(file, "image_mean", {-1e3, 1e3}) != result.mean ||
      read_channels(file, "image_std", {1e-3, 1e3}) != result.std)
    file.fail("image_mean", "the mean or the deviation differs from the image processor's");
  const auto bounds = read_pixel_bounds(file);
  result.video_min_pixels = bounds.least;
  result.video_max_pixels = bounds.most;
  if (file.has("fps")) result.video_fps = file.number("fps", {1e-3, 1e3});
  if (file.has("min_frames")) result.video_min_frames = file.size("min_frames", {1, 1 << 20});
  if (file.has("max_frames")) result.video_max_frames = file.size("max_frames", {1, 1 << 20});
  if (result.video_min_frames > result.video_max_frames)
    file.fail("max_frames", fmt::format("found {}, expected at least min_frames = {}",
                                        result.video_max_frames, result.video_min_frames));
  expect_fixed_steps(file);
}

/// What the processor class assumes without its file.
constexpr pixel_bounds video_class_defaults{131072, 786432};

}  // namespace

preprocessor_config parse_preprocessor_config(std::string_view image_json,
                                              std::string_view video_json,
                                              const std::string& origin) {
  std::vector<std::string> faults;
  preprocessor_config result;
  result.video_min_pixels = video_class_defaults.least;
  result.video_max_pixels = video_class_defaults.most;
  const auto image_origin = origin + preprocessor_config_file;
  read_image_processor(
      json_fields(parse_json_file(image_json, image_origin), image_origin + ": ", faults), result);
  if (!video_json.empty()) {
    const auto video_origin = origin + video_preprocessor_config_file;
    read_video_processor(
        json_fields(parse_json_file(video_json, video_origin), video_origin + ": ", faults),
        result);
  }
  throw_if_any(std::move(faults));
  return result;
}

generation_config parse_generation_config(std::string_view json, const std::string& origin) {
  std::vector<std::string> faults;
  const json_fields root(parse_json_file(json, origin), origin + ": ", faults);
  constexpr double smallest = std::numeric_limits<float>::min();
  const auto real = [&](std::string_view key, range<double> bounds) {
    return root.has(key) ? std::optional(static_cast<float>(root.number(key, bounds)))
                         : std::nullopt;
  };
  generation_config result;
  result.eos_token_ids = root.sizes("eos_token_id", ranges::token_ids);
  if (root.has("do_sample")) result.do_sample = root.boolean("do_sample");
  result.temperature = real("temperature", {0, 100});
  result.top_p = real("top_p", {smallest, 1});
  if (root.has("top_k")) result.top_k = root.size("top_k", {0, ranges::token_ids.most});
  result.repetition_penalty = real("repetition_penalty", {smallest, 100});
  throw_if_any(std::move(faults));
  return result;
}

}  // namespace troupe::config
