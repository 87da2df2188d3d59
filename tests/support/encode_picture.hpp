#pragma once

#include "model/vision/image.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

/// Encoded pictures for tests: valid ones in every variant of a format, and the parts to build
/// broken ones from.
namespace troupe::testing {

/// Smooth colours that differ in every pixel and channel.
model::rgb_image gradient(int32_t width, int32_t height);
/// Uniform noise; the same for the same seed.
model::rgb_image noise(int32_t width, int32_t height, uint64_t seed);

struct png_layout {
  uint32_t width = 0;
  uint32_t height = 0;
  uint8_t bit_depth = 8;
  uint8_t color_type = 2;  // 0 grey, 2 RGB, 3 palette, 4 grey + alpha, 6 RGBA
  uint8_t interlace = 0;   // 1 = Adam7
};

/// One PNG chunk with its length and checksum.
std::string png_chunk(std::string_view type, std::string_view body);
std::string png_signature();
std::string png_header_chunk(const png_layout& layout);
/// A PNG whose scanlines (each with its filter byte) are `scanlines`; `extra` chunks come before
/// the pixels, `trailing` chunks after them.
std::string make_png(const png_layout& layout, std::string_view scanlines,
                     std::string_view extra = {}, std::string_view trailing = {});
/// An 8-bit RGB PNG of `image`.
std::string encode_png(const model::rgb_image& image, std::string_view extra = {},
                       std::string_view trailing = {});

enum class jpeg_kind : uint8_t { color_444, color_420, grey, cmyk };
/// `image` as JPEG at quality 95. `cmyk` stores inverted inks without black.
std::string encode_jpeg(const model::rgb_image& image, jpeg_kind kind, bool progressive = false);
/// `jpeg` with an application segment put after its start marker.
std::string with_segment(std::string_view jpeg, uint8_t code, std::string_view body);

/// `image` as lossless WebP; `alpha` covers the pixels, repeated, or is empty.
std::string encode_webp(const model::rgb_image& image, std::string_view alpha = {});
/// A lossless WebP in the extended container, with a chunk after the pixels.
std::string webp_with_chunk(const model::rgb_image& image, std::string_view type,
                            std::string_view body);

/// A TIFF block that holds nothing but an orientation.
std::string exif_block(uint16_t orientation, bool big_endian);

}  // namespace troupe::testing
