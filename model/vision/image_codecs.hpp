#pragma once

#include "model/vision/image.hpp"

#include <fmt/format.h>

#include <span>
#include <string_view>
#include <utility>

/// One decoder per format, behind image.hpp. Each reads the header itself, so that a library sees
/// only bytes whose size and kind were accepted.
namespace troupe::model {

template <class... Args>
[[noreturn]] void throw_corrupt(fmt::format_string<Args...> text, Args&&... args) {
  throw image_error(image_error::reason::corrupt, fmt::format(text, std::forward<Args>(args)...));
}

template <class... Args>
[[noreturn]] void throw_unsupported(fmt::format_string<Args...> text, Args&&... args) {
  throw image_error(image_error::reason::unsupported_format,
                    fmt::format(text, std::forward<Args>(args)...));
}

/// Both sides from 1 to 2^31 - 1, or image_error(corrupt).
image_header sized_header(image_format format, uint32_t width, uint32_t height);

bool is_png(std::string_view bytes);
bool is_jpeg(std::string_view bytes);
bool is_webp(std::string_view bytes);

/// As read_image_header, for bytes with that format's magic.
image_header read_png_header(std::string_view bytes);
image_header read_jpeg_header(std::string_view bytes);
image_header read_webp_header(std::string_view bytes);

/// Writes the stored picture: rgb [height, width, 3] of `header`, which came from the same bytes.
void decode_png(std::string_view bytes, const image_header& header, std::span<uint8_t> rgb);
void decode_jpeg(std::string_view bytes, const image_header& header, std::span<uint8_t> rgb);
void decode_webp(std::string_view bytes, const image_header& header, std::span<uint8_t> rgb);

}  // namespace troupe::model
