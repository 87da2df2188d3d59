#include "model/vision/image_processor.hpp"

#include "gpu/bfloat16.hpp"
#include "support/encode_picture.hpp"
#include "support/print_image.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>
#include <vector>

namespace troupe::model {
using namespace troupe::testing;

namespace {

/// The released models' settings.
config::preprocessor_config released_config() {
  config::preprocessor_config config;
  config.image_min_pixels = 65536;
  config.image_max_pixels = 16777216;
  config.video_min_pixels = 4096;
  config.video_max_pixels = 25165824;
  config.mean = config.std = {0.5f, 0.5f, 0.5f};
  return config;
}

rgb_image grey_row(const std::vector<uint8_t>& values) {
  rgb_image image{static_cast<int32_t>(values.size()), 1, {}};
  for (const uint8_t value : values) image.pixels.insert(image.pixels.end(), 3, value);
  return image;
}

std::vector<int> red_channel(const rgb_image& image) {
  std::vector<int> values;
  for (size_t i = 0; i < image.pixels.size(); i += 3) values.push_back(image.pixels[i]);
  return values;
}

/// The specified filter, written from its definition: which inputs make an output, and how much.
struct reference_taps {
  int32_t begin = 0;
  std::vector<double> weights;

  reference_taps(int32_t output, int32_t inputs, int32_t outputs) {
    const double scale = static_cast<double>(inputs) / outputs;
    const double stretch = std::max(scale, 1.0);
    const double center = scale * (output + 0.5);
    begin = std::max(static_cast<int32_t>(center - 2 * stretch + 0.5), 0);
    const int32_t end = std::min(static_cast<int32_t>(center + 2 * stretch + 0.5), inputs);
    double sum = 0;
    for (int32_t j = begin; j < end; ++j) {
      const double x = std::abs((j - center + 0.5) * (1 / stretch));
      weights.push_back(x < 1   ? (1.5 * x - 2.5) * x * x + 1
                        : x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5
                                : 0);
      sum += weights.back();
    }
    for (double& weight : weights) weight /= sum;
  }
};

int32_t reference_precision(int32_t inputs, int32_t outputs) {
  double largest = 0;
  for (int32_t i = 0; i < outputs; ++i)
    for (const double weight : reference_taps(i, inputs, outputs).weights)
      largest = std::max(largest, weight);
  int32_t precision = 0;
  while (precision < 22 && static_cast<int64_t>(0.5 + largest * std::exp2(precision + 1)) < 32768)
    ++precision;
  return precision;
}

/// One axis of a picture, one value at a time: input j of the line that output value `i` lies in is
/// `at(i, j)`, and `i` is output `output_of(i)` of its line.
template <class OutputOf, class At>
std::vector<uint8_t> reference_filter(size_t num_values, int32_t inputs, int32_t outputs,
                                      OutputOf output_of, At at) {
  const int32_t precision = reference_precision(inputs, outputs);
  std::vector<uint8_t> values;
  for (size_t i = 0; i < num_values; ++i) {
    const reference_taps taps(output_of(i), inputs, outputs);
    int64_t total = int64_t{1} << (precision - 1);
    for (size_t j = 0; j < taps.weights.size(); ++j)
      total += std::llround(taps.weights[j] * std::exp2(precision)) * at(i, taps.begin + j);
    values.push_back(static_cast<uint8_t>(std::clamp<int64_t>(total >> precision, 0, 255)));
  }
  return values;
}

rgb_image reference_resize(const rgb_image& input, image_size output) {
  std::vector<uint8_t> wide = input.pixels;
  const size_t row_values = size_t(3) * output.width;
  if (input.width != output.width)
    wide = reference_filter(
        row_values * input.height, input.width, output.width,
        [&](size_t i) { return static_cast<int32_t>(i / 3 % output.width); },
        [&](size_t i, size_t j) {
          return input.pixels[3 * (i / row_values * input.width + j) + i % 3];
        });
  if (input.height != output.height)
    wide = reference_filter(
        row_values * output.height, input.height, output.height,
        [&](size_t i) { return static_cast<int32_t>(i / row_values); },
        [&, columns = wide](size_t i, size_t j) {
          return columns[row_values * j + i % row_values];
        });
  return {output.width, output.height, std::move(wide)};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(image_processor)

BOOST_AUTO_TEST_CASE(smart_resize_matches_the_reference_table) {
  const struct {
    image_size in, out;
    int32_t tokens;
  } rows[] = {{{480, 640}, {480, 640}, 300},       {{720, 1280}, {704, 1280}, 880},
              {{1080, 1920}, {1088, 1920}, 2040},  {{1365, 2048}, {1376, 2048}, 2752},
              {{2160, 3840}, {2176, 3840}, 8160},  {{4000, 6000}, {3328, 4992}, 16224},
              {{8000, 6000}, {4704, 3520}, 16170}, {{100, 100}, {256, 256}, 64},
              {{10, 10}, {256, 256}, 64},          {{1, 1}, {256, 256}, 64},
              {{16, 1600}, {32, 2560}, 80},        {{48, 80}, {224, 352}, 77},
              {{5000, 25}, {4992, 32}, 156},       {{1008, 1040}, {1024, 1024}, 1024}};
  for (const auto& row : rows) {
    BOOST_TEST(smart_resize(row.in, 32, 65536, 16777216) == row.out);
    const auto grid = image_grid(row.in, released_config());
    BOOST_TEST(grid == (patch_grid{1, row.out.height / 16, row.out.width / 16}));
    BOOST_TEST(grid.visual_tokens(2) == row.tokens);
  }
}

BOOST_AUTO_TEST_CASE(smart_resize_video_matches_the_reference_table) {
  const struct {
    int32_t frames;
    image_size in, out;
    patch_grid grid;
    int32_t tokens;
  } rows[] = {{4, {480, 640}, {480, 640}, {2, 30, 40}, 600},
              {20, {720, 1280}, {704, 1280}, {10, 44, 80}, 8800},
              {60, {1080, 1920}, {480, 832}, {30, 30, 52}, 11700},
              {768, {1080, 1920}, {128, 224}, {384, 8, 14}, 10752}};
  for (const auto& row : rows) {
    BOOST_TEST(smart_resize_video(row.frames, row.in, 32, 4096, 25165824) == row.out);
    const auto grid = video_grid(row.frames, row.in, released_config());
    BOOST_TEST(grid == row.grid);
    BOOST_TEST(grid.visual_tokens(2) == row.tokens);
  }
}

BOOST_AUTO_TEST_CASE(impossible_shapes_are_refused) {
  const auto bad_shape = [](const image_error& error) {
    return error.why() == image_error::reason::bad_shape;
  };
  const auto config = released_config();
  for (const image_size size : {image_size{0, 5}, {5, 0}, {-1, 5}, {1, 201}, {2001, 10}}) {
    BOOST_CHECK_EXCEPTION(image_grid(size, config), image_error, bad_shape);
    BOOST_CHECK_EXCEPTION(video_grid(2, size, config), image_error, bad_shape);
  }
  BOOST_CHECK_NO_THROW(image_grid({1, 200}, config));
  BOOST_CHECK_EXCEPTION(video_grid(0, {64, 64}, config), image_error, bad_shape);
  BOOST_CHECK_EXCEPTION(process_video({}, config), image_error, bad_shape);
  BOOST_CHECK_EXCEPTION(process_video({gradient(64, 64), gradient(64, 65)}, config), image_error,
                        bad_shape);
}

BOOST_AUTO_TEST_CASE(random_sizes_and_bounds_keep_the_invariants) {
  std::mt19937_64 random(7);
  const auto up_to = [&random](double most) {  // uniform in magnitude
    return static_cast<int64_t>(
        std::exp(std::uniform_real_distribution(0.0, std::log(most))(random)));
  };
  int64_t refused = 0;
  for (int round = 0; round < 1'000'000; ++round) {
    const image_size in{static_cast<int32_t>(up_to(100'000)), static_cast<int32_t>(up_to(100'000))};
    const int32_t factor = round % 2 == 0 ? 32 : 28;
    const int64_t least = up_to(1 << 20);
    const int64_t most = std::max<int64_t>(16 * least, 4 * factor * factor) + up_to(1 << 24);
    const bool possible = std::max(in.height, in.width) <= 200 * std::min(in.height, in.width);
    try {
      const auto out = smart_resize(in, factor, least, most);
      const int64_t area = int64_t{out.height} * out.width;
      const bool thin = std::min(out.height, out.width) == factor;
      const bool sound = possible && out.height >= factor && out.width >= factor &&
                         out.height % factor == 0 && out.width % factor == 0 && area >= least &&
                         (area <= most || thin);
      if (!sound) BOOST_FAIL(in << " within " << least << " to " << most << " gives " << out);
    } catch (const image_error&) {
      ++refused;
      if (possible) BOOST_FAIL(in << " is refused");
    }
  }
  BOOST_TEST(refused > 0);
}

BOOST_AUTO_TEST_CASE(resize_matches_the_specified_rows) {
  const auto input = grey_row({0, 10, 200, 255, 30, 90, 120, 60});
  BOOST_TEST(red_channel(resize_bicubic(input, {1, 4})) == (std::vector<int>{19, 195, 84, 90}));
  BOOST_TEST(red_channel(resize_bicubic(input, {1, 6})) ==
             (std::vector<int>{0, 104, 242, 52, 108, 77}));
  BOOST_TEST(red_channel(resize_bicubic(input, {1, 12})) ==
             (std::vector<int>{0, 0, 33, 174, 253, 230, 54, 44, 98, 121, 90, 56}));
}

BOOST_AUTO_TEST_CASE(resize_of_columns_equals_resize_of_rows) {
  auto column = grey_row({0, 10, 200, 255, 30, 90, 120, 60});
  std::swap(column.width, column.height);
  const auto resized = resize_bicubic(column, {6, 1});
  BOOST_TEST(red_channel(resized) == (std::vector<int>{0, 104, 242, 52, 108, 77}));
}

BOOST_AUTO_TEST_CASE(resize_equals_its_definition_on_random_pictures) {
  std::mt19937_64 random(11);
  const auto side = [&random] { return static_cast<int32_t>(random() % 150 + 1); };
  for (int round = 0; round < 60; ++round) {
    const auto input = noise(side(), side(), round);
    const image_size output{side(), side()};
    const auto expected = reference_resize(input, output);
    const auto found = resize_bicubic(input, output);
    BOOST_TEST(found.size() == output);
    if (found.pixels != expected.pixels)
      BOOST_ERROR(input.size() << " to " << output << " differs from the definition");
  }
}

BOOST_AUTO_TEST_CASE(resize_keeps_equal_sizes_and_flat_colours) {
  const auto image = noise(17, 9, 5);
  BOOST_TEST(resize_bicubic(image, {9, 17}).pixels == image.pixels);
  const rgb_image flat{30, 20, std::vector<uint8_t>(1800, 137)};
  for (const uint8_t value : resize_bicubic(flat, {64, 7}).pixels) BOOST_TEST(value == 137);
}

BOOST_AUTO_TEST_CASE(patch_rows_run_through_merge_blocks) {
  auto config = released_config();
  config.image_min_pixels = 1;
  rgb_image image{64, 64, {}};
  for (int y = 0; y < 64; ++y)
    for (int x = 0; x < 64; ++x)
      for (const int value : {y, x, y / 16 * 4 + x / 16})
        image.pixels.push_back(static_cast<uint8_t>(value));
  const auto rows = process_image(image, config);
  BOOST_REQUIRE(rows.grid == (patch_grid{1, 4, 4}));
  BOOST_REQUIRE(rows.values<float>().size() == 16u * 1536);
  const int patch_of_row[] = {0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15};
  const auto normalised = [](int value) { return (static_cast<float>(value) - 127.5f) / 127.5f; };
  for (int row = 0; row < 16; ++row) {
    const float* values = &rows.values<float>()[static_cast<size_t>(row) * 1536];
    for (int slice = 0; slice < 2; ++slice) {
      for (int i = 0; i < 256; ++i) {
        const int y = patch_of_row[row] / 4 * 16 + i / 16;
        const int x = patch_of_row[row] % 4 * 16 + i % 16;
        BOOST_TEST(values[(0 + slice) * 256 + i] == normalised(y));
        BOOST_TEST(values[(2 + slice) * 256 + i] == normalised(x));
        BOOST_TEST(values[(4 + slice) * 256 + i] == normalised(patch_of_row[row]));
      }
    }
  }
}

BOOST_AUTO_TEST_CASE(channels_are_normalised_by_their_own_mean_and_std) {
  auto config = released_config();
  config.image_min_pixels = 1;
  config.mean = {0, 0.5f, 1};
  config.std = {1, 0.5f, 0.25f};
  const rgb_image white{32, 32, std::vector<uint8_t>(3072, 255)};
  const auto rows = process_image(white, config);
  const auto pixels = rows.values<float>();
  BOOST_TEST(pixels[0] == 1.0f);
  BOOST_TEST(pixels[512] == 1.0f);
  BOOST_TEST(pixels[1024] == 0.0f);
}

BOOST_AUTO_TEST_CASE(pixels_of_bfloat16_are_those_of_float_rounded_once) {
  const auto config = released_config();
  const auto image = noise(300, 200, 7);
  const auto exact = process_image(image, config);
  const auto rounded = process_image(image, config, gpu::dtype::bf16);
  BOOST_TEST((rounded.grid == exact.grid));
  BOOST_TEST((rounded.type == gpu::dtype::bf16));
  const auto found = rounded.values<gpu::bfloat16>();
  const auto expected = exact.values<float>();
  BOOST_REQUIRE(found.size() == expected.size());
  size_t different = 0;
  for (size_t i = 0; i < found.size(); ++i)
    different += found[i].bits != gpu::to_bfloat16(expected[i]).bits;
  BOOST_TEST(different == 0u);
}

BOOST_AUTO_TEST_CASE(clip_groups_hold_two_frames_and_repeat_the_last) {
  std::vector<rgb_image> frames;
  for (const int value : {10, 20, 30})
    frames.push_back({64, 64, std::vector<uint8_t>(12288, static_cast<uint8_t>(value))});
  const auto rows = process_video(frames, released_config());
  BOOST_REQUIRE(rows.grid == (patch_grid{2, 4, 4}));
  const auto value_at = [&rows](int group, int slice) {
    const auto at = static_cast<size_t>(group * 16 * 1536 + slice * 256);
    return std::lround(rows.values<float>()[at] * 127.5f + 127.5f);
  };
  BOOST_TEST(value_at(0, 0) == 10);
  BOOST_TEST(value_at(0, 1) == 20);
  BOOST_TEST(value_at(1, 0) == 30);
  BOOST_TEST(value_at(1, 1) == 30);
}

BOOST_AUTO_TEST_CASE(timestamps_are_the_middle_of_each_group) {
  BOOST_TEST(group_timestamps(4, 2, 2) == (std::vector<double>{0.25, 1.25}));
  BOOST_TEST(group_timestamps(3, 2, 2) == (std::vector<double>{0.25, 1}));
  BOOST_TEST(group_timestamps(1, 2, 2) == (std::vector<double>{0}));
  BOOST_TEST(group_timestamps(0, 2, 2).empty());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::model
