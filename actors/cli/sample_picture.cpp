#include "actors/cli/sample_picture.hpp"

#include <turbojpeg.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <memory>
#include <random>
#include <stdexcept>
#include <vector>

namespace troupe::cli {
namespace {

constexpr int32_t channels = 3;
constexpr int quality = 90;
constexpr int32_t coarsest = 128, finest = 2;  // wavelengths in pixels

/// Waves of all scales in random directions, weaker the finer, and a little noise.
std::vector<unsigned char> make_pixels(int32_t width, int32_t height) {
  std::mt19937 bits(1);
  std::uniform_real_distribution<float> any(-1, 1);
  std::vector<float> values(static_cast<size_t>(width) * static_cast<size_t>(height) * channels,
                            128);
  for (int32_t wavelength = coarsest; wavelength >= finest; wavelength /= 2) {
    const float x_step = any(bits) * 6.3F / static_cast<float>(wavelength),
                y_step = any(bits) * 6.3F / static_cast<float>(wavelength);
    const float strength = 40 * std::sqrt(static_cast<float>(wavelength) / coarsest);
    size_t i = 0;
    for (int32_t y = 0; y < height; ++y)
      for (int32_t x = 0; x < width; ++x)
        for (int32_t channel = 0; channel < channels; ++channel, ++i)
          values[i] += strength * std::sin(x_step * static_cast<float>(x) +
                                           y_step * static_cast<float>(y + 40 * channel));
  }
  std::vector<unsigned char> pixels(values.size());
  std::transform(values.begin(), values.end(), pixels.begin(), [&](float value) {
    return static_cast<unsigned char>(std::clamp(value + 6 * any(bits), 0.0F, 255.0F));
  });
  return pixels;
}

}  // namespace

std::string sample_jpeg(int32_t width, int32_t height) {
  const std::unique_ptr<void, int (*)(tjhandle)> encoder(tjInitCompress(), &tjDestroy);
  if (!encoder) throw std::runtime_error("a JPEG encoder cannot be made");
  const auto pixels = make_pixels(width, height);
  unsigned char* bytes = nullptr;
  unsigned long count = 0;
  const int status = tjCompress2(encoder.get(), pixels.data(), width, 0, height, TJPF_RGB, &bytes,
                                 &count, TJSAMP_420, quality, 0);
  const std::unique_ptr<unsigned char, void (*)(unsigned char*)> owner(bytes, &tjFree);
  if (status != 0)
    throw std::runtime_error(std::string("a JPEG cannot be made: ") +
                             tjGetErrorStr2(encoder.get()));
  return {reinterpret_cast<const char*>(bytes), count};
}

}  // namespace troupe::cli
