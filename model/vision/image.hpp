#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// A picture that cannot be used. The text is fit for a client: no library's words, no addresses.
class image_error : public std::runtime_error {
 public:
  enum class reason : uint8_t { unsupported_format, corrupt, too_large, bad_shape };
  image_error(reason why, const std::string& what) : std::runtime_error(what), why_(why) {}
  reason why() const noexcept { return why_; }

 private:
  reason why_;
};

struct image_size {
  int32_t height = 0;
  int32_t width = 0;
  bool operator==(const image_size&) const = default;
};

enum class image_format : uint8_t { png, jpeg, webp };

/// How a stored picture must be turned to stand upright. Values and names are EXIF's: the side of
/// the upright picture that the stored first row, then the stored first column, belongs to.
enum class image_orientation : uint8_t {
  top_left = 1,
  top_right = 2,
  bottom_right = 3,
  bottom_left = 4,
  left_top = 5,
  right_top = 6,
  right_bottom = 7,
  left_bottom = 8,
};

struct image_header {
  image_format format = image_format::png;
  int32_t width = 0;  // as stored
  int32_t height = 0;
  image_orientation orientation = image_orientation::top_left;

  int64_t pixels() const { return int64_t{width} * height; }
  /// The size decode_image gives: the stored one turned by the orientation. Grids and costs follow
  /// it.
  image_size upright_size() const;
};

/// What the bytes say about the picture, without decoding a pixel. The format comes from the magic
/// bytes alone. Time linear in the number of chunks; nothing is allocated. Throws image_error:
/// unsupported_format (also animated WebP; lossless, arithmetic and 12-bit JPEG), corrupt.
image_header read_image_header(std::string_view bytes);

/// 8-bit RGB, rows top down, no padding: pixels [height, width, 3].
struct rgb_image {
  int32_t width = 0;
  int32_t height = 0;
  std::vector<uint8_t> pixels;

  image_size size() const { return {height, width}; }
};

/// Decodes PNG, JPEG or WebP to RGB, upright. Alpha is dropped, not blended; 16-bit channels keep
/// their high byte; CMYK follows Adobe's inverted convention; colour profiles are not applied (all
/// as the reference processor, except 16-bit grey, which it saturates). Refuses before decoding if
/// the header promises over `max_pixels`, or a JPEG has more scans than a picture of its size can
/// need. Throws image_error.
rgb_image decode_image(std::string_view bytes, int64_t max_pixels);

}  // namespace troupe::model
