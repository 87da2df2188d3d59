#include "model/vision/image.hpp"

#include "model/vision/image_codecs.hpp"

#include <algorithm>
#include <limits>
#include <utility>

namespace troupe::model {
namespace {

struct codec {
  bool (*recognises)(std::string_view);
  image_header (*read_header)(std::string_view);
  void (*decode)(std::string_view, const image_header&, std::span<uint8_t>);
};

constexpr codec codecs[] = {{is_png, read_png_header, decode_png},
                            {is_jpeg, read_jpeg_header, decode_jpeg},
                            {is_webp, read_webp_header, decode_webp}};

const codec& codec_for(std::string_view bytes) {
  for (const auto& candidate : codecs)
    if (candidate.recognises(bytes)) return candidate;
  throw_unsupported("the data is not a picture in a supported format, expected PNG, JPEG or WebP");
}

bool swaps_sides(image_orientation orientation) {
  return orientation >= image_orientation::left_top;
}

bool starts_right(image_orientation orientation) {  // the stored picture's columns run backwards
  return orientation == image_orientation::top_right ||
         orientation == image_orientation::bottom_right ||
         orientation == image_orientation::right_bottom ||
         orientation == image_orientation::left_bottom;
}

bool starts_bottom(image_orientation orientation) {  // the stored picture's rows run backwards
  return orientation == image_orientation::bottom_right ||
         orientation == image_orientation::bottom_left ||
         orientation == image_orientation::right_top ||
         orientation == image_orientation::right_bottom;
}

/// A walk over stored pixels, in pixels: where the upright picture starts, and the step to the next
/// pixel of its row and to its next row.
struct upright_walk {
  int64_t start = 0;
  int64_t column_step = 1;
  int64_t row_step = 1;

  upright_walk(const rgb_image& stored, image_orientation orientation) {
    const bool right = starts_right(orientation);
    const bool bottom = starts_bottom(orientation);
    const int64_t width = stored.width;
    start = (right ? width - 1 : 0) + (bottom ? (stored.height - 1) * width : 0);
    column_step = right ? -1 : 1;
    row_step = bottom ? -width : width;
    if (swaps_sides(orientation)) std::swap(column_step, row_step);
  }
};

rgb_image turned_upright(rgb_image stored, image_orientation orientation) {
  if (orientation == image_orientation::top_left) return stored;
  rgb_image upright{stored.width, stored.height, std::vector<uint8_t>(stored.pixels.size())};
  if (swaps_sides(orientation)) std::swap(upright.width, upright.height);
  const upright_walk walk(stored, orientation);
  auto* out = upright.pixels.data();
  for (int64_t y = 0; y < upright.height; ++y) {
    for (int64_t x = 0; x < upright.width; ++x, out += 3) {
      const auto* in = &stored.pixels[3 * (walk.start + y * walk.row_step + x * walk.column_step)];
      std::copy_n(in, 3, out);
    }
  }
  return upright;
}

}  // namespace

image_header sized_header(image_format format, uint32_t width, uint32_t height) {
  constexpr uint32_t side_max = std::numeric_limits<int32_t>::max();
  if (width < 1 || height < 1 || width > side_max || height > side_max)
    throw_corrupt("the picture says it has {}x{} pixels, expected 1 to {} a side", width, height,
                  side_max);
  return {format, static_cast<int32_t>(width), static_cast<int32_t>(height),
          image_orientation::top_left};
}

image_size image_header::upright_size() const {
  return swaps_sides(orientation) ? image_size{width, height} : image_size{height, width};
}

image_header read_image_header(std::string_view bytes) {
  return codec_for(bytes).read_header(bytes);
}

rgb_image decode_image(std::string_view bytes, int64_t max_pixels) {
  const auto& codec = codec_for(bytes);
  const auto header = codec.read_header(bytes);
  if (header.pixels() > max_pixels)
    throw image_error(image_error::reason::too_large,
                      fmt::format("the picture has {}x{} pixels, expected at most {} in all",
                                  header.width, header.height, max_pixels));
  rgb_image stored{header.width, header.height,
                   std::vector<uint8_t>(static_cast<size_t>(3 * header.pixels()))};
  codec.decode(bytes, header, stored.pixels);
  return turned_upright(std::move(stored), header.orientation);
}

}  // namespace troupe::model
