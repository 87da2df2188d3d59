#include "model/vision/image_processor.hpp"

#include "config/model_config.hpp"
#include "support/reference_set.hpp"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <cmath>

namespace troupe::model {
using namespace troupe::testing;

namespace {

constexpr int64_t max_pixels = 16'777'216;
constexpr const char* set_names[] = {"tiny", "dense72", "moe"};

config::preprocessor_config preprocessor_of(const std::string& checkpoint) {
  const auto folder = fixtures() / checkpoint;
  return config::parse_preprocessor_config(read_file(folder / "preprocessor_config.json"),
                                           read_file(folder / "video_preprocessor_config.json"),
                                           checkpoint);
}

rgb_image load(const std::string& path) {
  return decode_image(read_file(fixtures() / path), max_pixels);
}

std::vector<patch_rows> processed(const reference_case& example,
                                  const config::preprocessor_config& config) {
  std::vector<patch_rows> rows;
  for (const auto& path : example.images) rows.push_back(process_image(load(path), config));
  if (!example.video) return rows;
  std::vector<rgb_image> frames;
  for (const auto& path : example.video->frames) frames.push_back(load(path));
  rows.push_back(process_video(frames, config));
  return rows;
}

std::vector<patch_grid> grids_from_headers(const reference_case& example,
                                           const config::preprocessor_config& config) {
  std::vector<patch_grid> grids;
  const auto upright = [](const std::string& path) {
    return read_image_header(read_file(fixtures() / path)).upright_size();
  };
  for (const auto& path : example.images) grids.push_back(image_grid(upright(path), config));
  if (example.video) {
    const auto& frames = example.video->frames;
    grids.push_back(video_grid(static_cast<int32_t>(frames.size()), upright(frames[0]), config));
  }
  return grids;
}

bool is_lossless(const reference_case& example) {
  for (const auto& path : example.images)
    if (!path.ends_with(".png")) return false;
  return true;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(image_reference)

BOOST_DATA_TEST_CASE(grids_equal_the_reference, set_names, checkpoint) {
  const auto config = preprocessor_of(checkpoint);
  size_t compared = 0;
  for (const auto& example : reference_set(std::string("ref-") + checkpoint).cases) {
    const auto from_headers = grids_from_headers(example, config);
    const auto from_pixels = processed(example, config);
    BOOST_REQUIRE_EQUAL(from_headers.size(), example.grid_thw.size());
    BOOST_REQUIRE_EQUAL(from_pixels.size(), example.grid_thw.size());
    for (size_t i = 0; i < example.grid_thw.size(); ++i, ++compared) {
      const auto [t, height, width] = example.grid_thw[i];
      BOOST_TEST((from_headers[i] == patch_grid{t, height, width}), example.name);
      BOOST_TEST((from_pixels[i].grid == patch_grid{t, height, width}), example.name);
    }
  }
  BOOST_TEST(compared == 16);
}

/// PNG pictures bit for bit; others within one level, since decoders may round differently.
BOOST_DATA_TEST_CASE(pixels_equal_the_reference, set_names, checkpoint) {
  const auto config = preprocessor_of(checkpoint);
  const reference_set reference(std::string("ref-") + checkpoint);
  size_t compared = 0;
  for (const auto& example : reference.cases) {
    const auto expected = reference.tensors.find(example.name + ".pixels");
    if (expected == reference.tensors.end()) continue;
    ++compared;
    std::vector<float> found;
    for (const patch_rows& rows : processed(example, config)) {
      const auto pixels = rows.values<float>();
      found.insert(found.end(), pixels.begin(), pixels.end());
    }
    BOOST_REQUIRE_EQUAL(found.size(), expected->second.values.size());
    float largest = 0;
    for (size_t i = 0; i < found.size(); ++i)
      largest = std::max(largest, std::abs(found[i] - expected->second.values[i]));
    BOOST_TEST_MESSAGE(example.name << ": largest difference " << largest * 127.5f << " levels");
    BOOST_TEST(largest <= (is_lossless(example) ? 0.0f : 1.0001f / 127.5f));
  }
  BOOST_TEST(compared == 3);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::model
