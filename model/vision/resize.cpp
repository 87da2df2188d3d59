#include "config/ensure.hpp"
#include "model/vision/image_processor.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace troupe::model {
namespace {

/// The filter of one axis: output i is the weighted sum of `num_taps` inputs from first[i] on, in
/// fixed point with `precision` fraction bits. Inputs near an edge have fewer taps; their weights
/// end in zeros.
struct axis_filter {
  int32_t num_taps = 0;
  int32_t precision = 0;
  std::vector<int32_t> first;
  std::vector<int32_t> count;
  std::vector<int16_t> weights;  // [outputs, num_taps]

  const int16_t* weights_of(int32_t output) const {
    return weights.data() + size_t(output) * num_taps;
  }
};

double keys_cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * a;
  return 0;
}

/// The most fraction bits with which the largest weight still fits 16 bits.
int32_t weight_precision(double weight_max) {
  constexpr int32_t precision_max = 22;
  int32_t precision = 0;
  while (precision < precision_max &&
         static_cast<int64_t>(0.5 + std::ldexp(weight_max, precision + 1)) < (1 << 15))
    ++precision;
  return precision;
}

axis_filter make_axis_filter(int32_t inputs, int32_t outputs) {
  const double scale = static_cast<double>(inputs) / outputs;
  const double support = scale >= 1 ? 2 * scale : 2;
  const double inverse = scale >= 1 ? 1 / scale : 1;
  axis_filter filter;
  filter.num_taps = static_cast<int32_t>(std::ceil(support)) * 2 + 1;
  std::vector<double> weights(size_t(outputs) * filter.num_taps);
  for (int32_t i = 0; i < outputs; ++i) {
    const double center = scale * (i + 0.5);
    const auto begin = std::max<int64_t>(static_cast<int64_t>(center - support + 0.5), 0);
    const auto end = std::min<int64_t>(static_cast<int64_t>(center + support + 0.5), inputs);
    filter.first.push_back(static_cast<int32_t>(begin));
    filter.count.push_back(static_cast<int32_t>(end - begin));
    double* row = weights.data() + size_t(i) * filter.num_taps;
    double sum = 0;
    for (int64_t j = begin; j < end; ++j)
      sum += row[j - begin] = keys_cubic((static_cast<double>(j) - center + 0.5) * inverse);
    for (int64_t j = 0; j < end - begin; ++j) row[j] /= sum;
  }
  filter.precision = weight_precision(*std::ranges::max_element(weights));
  for (const double weight : weights)
    filter.weights.push_back(
        static_cast<int16_t>(std::round(std::ldexp(weight, filter.precision))));
  return filter;
}

uint8_t to_uint8(int32_t sum, int32_t precision) {
  return static_cast<uint8_t>(std::clamp(sum >> precision, 0, 255));
}

/// One row of pixels, filtered along the row. `padded` holds the input as [width, 4] so that the
/// four lanes of a pixel are summed together.
void filter_row(uint8_t* output, const int16_t* padded, const axis_filter& filter) {
  const auto outputs = static_cast<int32_t>(filter.first.size());
  for (int32_t x = 0; x < outputs; ++x) {
    int32_t sums[4];
    std::ranges::fill(sums, 1 << (filter.precision - 1));
    const int16_t* weights = filter.weights_of(x);
    const int16_t* pixel = padded + size_t(4) * filter.first[x];
    for (int32_t j = 0; j < filter.count[x]; ++j, pixel += 4)
      for (int lane = 0; lane < 4; ++lane) sums[lane] += weights[j] * pixel[lane];
    for (int lane = 0; lane < 3; ++lane)
      output[3 * x + lane] = to_uint8(sums[lane], filter.precision);
  }
}

rgb_image resize_width(const rgb_image& input, int32_t width) {
  const auto filter = make_axis_filter(input.width, width);
  rgb_image output{width, input.height, std::vector<uint8_t>(size_t(3) * width * input.height)};
  std::vector<int16_t> padded(size_t(4) * input.width);
  for (int32_t y = 0; y < input.height; ++y) {
    const uint8_t* row = input.pixels.data() + size_t(3) * input.width * y;
    for (int32_t x = 0; x < input.width; ++x)
      for (int lane = 0; lane < 3; ++lane) padded[4 * x + lane] = row[3 * x + lane];
    filter_row(output.pixels.data() + size_t(3) * width * y, padded.data(), filter);
  }
  return output;
}

rgb_image resize_height(const rgb_image& input, int32_t height) {
  constexpr size_t lanes = 64;  // sums kept in registers and the first-level cache
  const auto filter = make_axis_filter(input.height, height);
  const size_t row_bytes = size_t(3) * input.width;
  rgb_image output{input.width, height, std::vector<uint8_t>(row_bytes * height)};
  for (int32_t y = 0; y < height; ++y) {
    const int16_t* weights = filter.weights_of(y);
    for (size_t begin = 0; begin < row_bytes; begin += lanes) {
      const size_t count = std::min(lanes, row_bytes - begin);
      int32_t sums[lanes];
      std::ranges::fill(sums, 1 << (filter.precision - 1));
      const uint8_t* column = input.pixels.data() + row_bytes * filter.first[y] + begin;
      for (int32_t j = 0; j < filter.count[y]; ++j, column += row_bytes)
        for (size_t lane = 0; lane < count; ++lane)
          sums[lane] += weights[j] * static_cast<int16_t>(column[lane]);
      uint8_t* out = output.pixels.data() + row_bytes * y + begin;
      for (size_t lane = 0; lane < count; ++lane)
        out[lane] = to_uint8(sums[lane], filter.precision);
    }
  }
  return output;
}

}  // namespace

rgb_image resize_bicubic(const rgb_image& input, image_size output) {
  config::ensure(output.height > 0 && output.width > 0, "resize to {}x{}, expected sides over 0",
                 output.width, output.height);
  if (output.width == input.width && output.height == input.height) return input;
  if (output.width == input.width) return resize_height(input, output.height);
  auto resized = resize_width(input, output.width);
  return output.height == input.height ? resized : resize_height(resized, output.height);
}

}  // namespace troupe::model
