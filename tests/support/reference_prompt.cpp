#include "support/reference_prompt.hpp"

#include "config/ensure.hpp"
#include "model/vision/image.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace troupe::testing {
namespace {

constexpr int64_t any_number_of_pixels = int64_t{1} << 28;

model::rgb_image decode(const std::string& path) {
  return model::decode_image(read_file(fixtures() / path), any_number_of_pixels);
}

}  // namespace

plan::prompt prompt_of(const reference_case& example, const config::model_config& model) {
  plan::prompt prompt;
  prompt.token_ids = example.prompt_ids;
  const auto count = static_cast<int32_t>(prompt.token_ids.size());
  int32_t largest = count - 1;
  for (size_t axis = 0; axis < 3; ++axis) {
    auto& positions = prompt.positions[axis];
    positions.resize(static_cast<size_t>(count));
    std::iota(positions.begin(), positions.end(), 0);
    if (!example.position_ids.empty()) positions = example.position_ids.at(axis);
  }
  if (!example.position_ids.empty()) {
    largest = 0;
    for (const auto& axis : prompt.positions)
      largest = std::max(largest, *std::max_element(axis.begin(), axis.end()));
  }
  prompt.rope_delta = largest + 1 - count;
  for (int32_t i = 0; i < count; ++i) {
    const int32_t id = prompt.token_ids[static_cast<size_t>(i)];
    if (id != model.image_token_id && id != model.video_token_id) continue;
    auto& spans = prompt.spans;
    if (spans.empty() || spans.back().first_token + spans.back().num_tokens != i)
      spans.push_back({.first_token = i});
    ++spans.back().num_tokens;
  }
  return prompt;
}

std::vector<model::patch_rows> patches_of(const reference_case& example,
                                          const config::preprocessor_config& config,
                                          gpu::dtype type) {
  std::vector<model::patch_rows> pictures;
  for (const auto& path : example.images)
    pictures.push_back(model::process_image(decode(path), config, type));
  if (example.video) {
    std::vector<model::rgb_image> frames;
    for (const auto& path : example.video->frames) frames.push_back(decode(path));
    pictures.push_back(model::process_video(frames, config, type));
  }
  return pictures;
}

std::vector<model::patch_rows> reference_patches_of(const reference_set& set,
                                                    const reference_case& example) {
  const auto found = set.tensors.find(example.name + ".pixels");
  if (found == set.tensors.end()) return {};
  std::vector<model::patch_rows> pictures;
  const auto width = found->second.shape.at(1);
  auto next = found->second.values.begin();
  for (const auto& [t, height, width_patches] : example.grid_thw) {
    model::patch_rows picture;
    picture.grid = {t, height, width_patches};
    const int64_t count = picture.grid.patches() * width;
    picture.pixels.resize(static_cast<size_t>(count) * sizeof(float));
    std::copy_n(next, count, picture.values<float>().begin());
    next += count;
    pictures.push_back(std::move(picture));
  }
  return pictures;
}

placed_pictures place(const std::vector<model::patch_rows>& pictures, int32_t merge_size,
                      int32_t first_row) {
  placed_pictures placed;
  for (const auto& picture : pictures) {
    auto& item = placed.items.emplace_back();
    item.grid = picture.grid;
    item.pixels = picture.pixels;
    item.destination_rows.resize(static_cast<size_t>(picture.grid.visual_tokens(merge_size)));
    std::iota(item.destination_rows.begin(), item.destination_rows.end(),
              first_row + static_cast<int32_t>(placed.rows.size()));
    placed.rows.insert(placed.rows.end(), item.destination_rows.begin(),
                       item.destination_rows.end());
  }
  return placed;
}

double relative_error(const std::vector<float>& found, const std::vector<float>& expected) {
  config::ensure(found.size() == expected.size(), "{} values against {}", found.size(),
                 expected.size());
  double difference = 0;
  double norm = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    difference += std::pow(double{found[i]} - double{expected[i]}, 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(difference / norm);
}

double largest_difference(const std::vector<float>& found, const std::vector<float>& expected) {
  config::ensure(found.size() == expected.size(), "{} values against {}", found.size(),
                 expected.size());
  double largest = 0;
  for (size_t i = 0; i < found.size(); ++i) {
    const double difference = std::abs(double{found[i]} - double{expected[i]});
    if (std::isnan(difference)) return difference;
    largest = std::max(largest, difference);
  }
  return largest;
}

}  // namespace troupe::testing
