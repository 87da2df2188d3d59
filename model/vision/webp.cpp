#include "model/vision/byte_reader.hpp"
#include "model/vision/exif.hpp"
#include "model/vision/image_codecs.hpp"

#include <webp/decode.h>

namespace troupe::model {
namespace {

constexpr size_t riff_header_bytes = 12;  // "RIFF", size, "WEBP"
constexpr size_t chunk_header_bytes = 8;  // type, size

const uint8_t* as_unsigned(std::string_view bytes) {
  return reinterpret_cast<const uint8_t*>(bytes.data());
}

/// The body of the first chunk of `type`, cut at the end of the bytes; empty if there is none.
std::string_view find_chunk(std::string_view bytes, std::string_view type) {
  size_t offset = riff_header_bytes;
  while (const auto size = read_unsigned(bytes, offset + 4, 4, std::endian::little)) {
    if (part_of(bytes, offset, 4) == type)
      return part_of(bytes, offset + chunk_header_bytes, *size);
    offset += chunk_header_bytes + *size + (*size & 1);  // bodies are padded to even sizes
  }
  return {};
}

}  // namespace

bool is_webp(std::string_view bytes) {
  return bytes.starts_with("RIFF") && part_of(bytes, 8, 4) == "WEBP";
}

image_header read_webp_header(std::string_view bytes) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(as_unsigned(bytes), bytes.size(), &features) != VP8_STATUS_OK)
    throw_corrupt("the WebP header is damaged or cut short");
  if (features.has_animation)
    throw_unsupported("animated WebP is not supported, expected a still picture");
  auto header = sized_header(image_format::webp, static_cast<uint32_t>(features.width),
                             static_cast<uint32_t>(features.height));
  header.orientation = exif_orientation(find_chunk(bytes, "EXIF"));
  return header;
}

void decode_webp(std::string_view bytes, const image_header& header, std::span<uint8_t> rgb) {
  if (!WebPDecodeRGBInto(as_unsigned(bytes), bytes.size(), rgb.data(), rgb.size(),
                         3 * header.width))
    throw_corrupt("the WebP data is damaged or cut short");
}

}  // namespace troupe::model
