#include "config/ensure.hpp"
#include "model/vision/image_processor.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace troupe::model {
namespace {

/// The filter of one axis: output i is the weighted sum of `num_taps` inputs from first[i] on, in
/// fixed point with `precision` fraction bits. count[i] weights are used, the rest are 0; `num_taps`
/// is even.
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
  filter.num_taps = static_cast<int32_t>(std::ceil(support)) * 2 + 2;
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

/// Values that filter_four may read or write past the last one of a picture.
constexpr size_t slack = 4;

using four_values = std::array<uint8_t, 4>;

#if defined(__SSE2__)

__m128i load_four(const uint8_t* values) {
  int32_t packed;
  std::memcpy(&packed, values, sizeof packed);
  return _mm_cvtsi32_si128(packed);
}

__m128i load_pair(const int16_t* weights) {
  int32_t packed;
  std::memcpy(&packed, weights, sizeof packed);
  return _mm_set1_epi32(packed);
}

/// Four neighbouring outputs: the weighted sums of `num_taps` times four neighbouring inputs,
/// `stride` values apart. Taps are taken in pairs, since x86 multiplies and adds pairs in one
/// instruction.
four_values filter_four(const uint8_t* input, size_t stride, const int16_t* weights,
                        int32_t num_taps, int32_t precision) {
  __m128i sums = _mm_set1_epi32(1 << (precision - 1));
  for (int32_t j = 0; j < num_taps; j += 2, input += 2 * stride) {
    const uint8_t* second = j + 1 < num_taps ? input + stride : input;  // else its weight is 0
    const __m128i pairs = _mm_unpacklo_epi8(load_four(input), load_four(second));
    const __m128i wide = _mm_unpacklo_epi8(pairs, _mm_setzero_si128());
    sums = _mm_add_epi32(sums, _mm_madd_epi16(wide, load_pair(weights + j)));
  }
  sums = _mm_sra_epi32(sums, _mm_cvtsi32_si128(precision));
  sums = _mm_packs_epi32(sums, sums);
  const int32_t packed = _mm_cvtsi128_si32(_mm_packus_epi16(sums, sums));
  return std::bit_cast<four_values>(packed);
}

#else

four_values filter_four(const uint8_t* input, size_t stride, const int16_t* weights,
                        int32_t num_taps, int32_t precision) {
  int32_t sums[4];
  std::ranges::fill(sums, 1 << (precision - 1));
  for (int32_t j = 0; j < num_taps; ++j, input += stride)
    for (size_t lane = 0; lane < 4; ++lane) sums[lane] += weights[j] * input[lane];
  four_values values;
  for (size_t lane = 0; lane < 4; ++lane)
    values[lane] = static_cast<uint8_t>(std::clamp(sums[lane] >> precision, 0, 255));
  return values;
}

#endif

/// RGB [height, width, 3] followed by `slack` values.
using padded_pixels = std::vector<uint8_t>;

/// Each output pixel stores a fourth value, which the next pixel overwrites.
padded_pixels filter_along_rows(const padded_pixels& input, image_size size, int32_t width) {
  const auto filter = make_axis_filter(size.width, width);
  padded_pixels output(size_t(3) * width * size.height + slack);
  uint8_t* out = output.data();
  for (int32_t y = 0; y < size.height; ++y) {
    const uint8_t* row = input.data() + size_t(3) * size.width * y;
    for (int32_t x = 0; x < width; ++x, out += 3)
      std::ranges::copy(filter_four(row + size_t(3) * filter.first[x], 3, filter.weights_of(x),
                                    filter.count[x], filter.precision),
                        out);
  }
  return output;
}

/// Rows are filtered four values at a time; what the last four write past a row, the next row
/// overwrites.
padded_pixels filter_along_columns(const padded_pixels& input, image_size size, int32_t height) {
  const auto filter = make_axis_filter(size.height, height);
  const size_t row_values = size_t(3) * size.width;
  padded_pixels output(row_values * height + slack);
  for (int32_t y = 0; y < height; ++y) {
    const uint8_t* first_row = input.data() + row_values * filter.first[y];
    uint8_t* out = output.data() + row_values * y;
    for (size_t i = 0; i < row_values; i += 4)
      std::ranges::copy(filter_four(first_row + i, row_values, filter.weights_of(y),
                                    filter.count[y], filter.precision),
                        out + i);
  }
  return output;
}

}  // namespace

rgb_image resize_bicubic(const rgb_image& input, image_size output) {
  config::ensure(output.height > 0 && output.width > 0, "resize to {}x{}, expected sides over 0",
                 output.width, output.height);
  if (input.size() == output) return input;
  image_size size = input.size();
  padded_pixels pixels(input.pixels.size() + slack);
  std::ranges::copy(input.pixels, pixels.begin());
  if (size.width != output.width) {
    pixels = filter_along_rows(pixels, size, output.width);
    size.width = output.width;
  }
  if (size.height != output.height) pixels = filter_along_columns(pixels, size, output.height);
  pixels.resize(pixels.size() - slack);
  return {output.width, output.height, std::move(pixels)};
}

}  // namespace troupe::model
