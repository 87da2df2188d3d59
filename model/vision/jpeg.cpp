#include "model/vision/byte_reader.hpp"
#include "model/vision/exif.hpp"
#include "model/vision/image_codecs.hpp"

#include <turbojpeg.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <vector>

namespace troupe::model {
namespace {

/// Marker codes, the byte after 0xFF. Source: ITU-T T.81, table B.1.
enum marker : uint8_t {
  tem = 0x01,
  sof0 = 0xC0,
  sof2 = 0xC2,
  dht = 0xC4,
  jpg = 0xC8,
  dac = 0xCC,
  sof15 = 0xCF,
  rst0 = 0xD0,
  rst7 = 0xD7,
  soi = 0xD8,
  eoi = 0xD9,
  sos = 0xDA,
  app1 = 0xE1,
};

/// Each scan passes over the whole picture, so the data of a small file can ask for hours of work.
/// Encoders write 1 to about 12 scans; the two limits keep the worst picture near a second.
constexpr int64_t scans_max = 100;
constexpr int64_t scanned_pixels_max = int64_t{1} << 28;

bool is_start_of_frame(uint8_t code) {
  return code >= sof0 && code <= sof15 && code != dht && code != jpg && code != dac;
}

bool has_no_length(uint8_t code) {
  return code == tem || code == soi || code == eoi || (code >= rst0 && code <= rst7);
}

/// A marker and its segment's body (empty for markers that stand alone).
struct jpeg_segment {
  uint8_t code = 0;
  std::string_view body;
};

/// The first segment at or after `offset`, which moves to its end; entropy-coded data and stray
/// bytes are skipped, as decoders do. Nothing if the bytes end first.
std::optional<jpeg_segment> next_segment(std::string_view bytes, size_t& offset) {
  while ((offset = bytes.find('\xFF', offset)) != std::string_view::npos) {
    const auto code = read_unsigned(bytes, ++offset, 1, std::endian::big);
    if (!code) return std::nullopt;
    if (*code == 0 || *code == 0xFF) continue;  // a stuffed 0xFF of entropy-coded data; fill bytes
    jpeg_segment found{static_cast<uint8_t>(*code), {}};
    ++offset;
    if (has_no_length(found.code)) return found;
    const auto length = read_unsigned(bytes, offset, 2, std::endian::big);
    if (!length || *length < 2 || part_of(bytes, offset).size() < *length) return std::nullopt;
    found.body = bytes.substr(offset + 2, *length - 2);
    offset += *length;
    return found;
  }
  return std::nullopt;
}

struct jpeg_frame {
  image_header header;
  uint8_t num_components = 0;
};

jpeg_frame parse_frame(const jpeg_segment& segment) {
  if (segment.code > sof2)
    throw_unsupported(
        "JPEG coding process {} is not supported, expected 0 to 2 (baseline to progressive)",
        segment.code - sof0);
  const auto precision = read_unsigned(segment.body, 0, 1, std::endian::big);
  const auto height = read_unsigned(segment.body, 1, 2, std::endian::big);
  const auto width = read_unsigned(segment.body, 3, 2, std::endian::big);
  const auto num_components = read_unsigned(segment.body, 5, 1, std::endian::big);
  if (!num_components) throw_corrupt("the JPEG frame header is cut short");
  if (*precision != 8)
    throw_unsupported("JPEG with {} bits per channel is not supported, expected 8", *precision);
  if (*num_components != 1 && *num_components != 3 && *num_components != 4)
    throw_unsupported("JPEG with {} components is not supported, expected 1, 3 or 4",
                      *num_components);
  return {sized_header(image_format::jpeg, *width, *height), static_cast<uint8_t>(*num_components)};
}

/// What the markers before the first scan say.
jpeg_frame read_preamble(std::string_view bytes) {
  std::optional<jpeg_frame> frame;
  std::optional<image_orientation> orientation;
  size_t offset = 0;
  while (const auto segment = next_segment(bytes, offset)) {
    if (segment->code == app1 && segment->body.starts_with("Exif") && !orientation)
      orientation = exif_orientation(segment->body);
    if (is_start_of_frame(segment->code) && !frame) frame = parse_frame(*segment);
    if (segment->code == eoi) break;
    if (segment->code != sos || !frame) continue;
    frame->header.orientation = orientation.value_or(image_orientation::top_left);
    return *frame;
  }
  throw_corrupt("the JPEG ends before its first scan, expected a frame header and a scan");
}

/// The number of scans up to the end marker, or image_error if that marker is missing.
int64_t count_scans(std::string_view bytes) {
  int64_t num_scans = 0;
  size_t offset = 0;
  while (const auto segment = next_segment(bytes, offset)) {
    if (segment->code == eoi) return num_scans;
    if (segment->code == sos) ++num_scans;
  }
  throw_corrupt("the JPEG data is cut short, expected an end marker");
}

void refuse_scan_flood(int64_t num_scans, const image_header& header) {
  const auto allowed = std::min(scans_max, scanned_pixels_max / header.pixels() + 1);
  if (num_scans > allowed)
    throw image_error(image_error::reason::too_large,
                      fmt::format("a JPEG of {}x{} pixels has {} scans, expected at most {}",
                                  header.width, header.height, num_scans, allowed));
}

struct destroy_decompressor {
  void operator()(void* handle) const { tjDestroy(handle); }
};

/// Decodes with the reference's choices: exact integer DCT, smooth chroma upsampling (the default).
/// Damage inside the pixel data leaves grey areas, as in the reference; a fatal fault throws.
void decompress(std::string_view bytes, const image_header& header, TJPF format, uint8_t* pixels) {
  const std::unique_ptr<void, destroy_decompressor> handle{tjInitDecompress()};
  if (!handle) throw std::bad_alloc();
  const int status =
      tjDecompress2(handle.get(), reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size(),
                    pixels, header.width, 0, header.height, format, TJFLAG_ACCURATEDCT);
  if (status != 0 && tjGetErrorCode(handle.get()) != TJERR_WARNING)
    throw_corrupt("the JPEG data is damaged");
}

/// value / 255, rounded, for value in 0 .. 255 * 255.
constexpr uint32_t divide_by_255(uint32_t value) {
  const uint32_t shifted = value + 128;
  return (shifted + (shifted >> 8)) >> 8;
}

/// Inks stored inverted, as Adobe's programs do and the reference assumes: 255 is no ink.
void inverted_cmyk_to_rgb(const std::vector<uint8_t>& cmyk, std::span<uint8_t> rgb) {
  for (size_t pixel = 0; pixel < rgb.size() / 3; ++pixel) {
    const uint32_t black = cmyk[4 * pixel + 3];
    for (size_t channel = 0; channel < 3; ++channel) {
      const uint32_t ink = 255u - cmyk[4 * pixel + channel];
      rgb[3 * pixel + channel] = static_cast<uint8_t>(black - divide_by_255(ink * black));
    }
  }
}

}  // namespace

bool is_jpeg(std::string_view bytes) {
  return bytes.starts_with("\xFF\xD8\xFF");
}

image_header read_jpeg_header(std::string_view bytes) {
  return read_preamble(bytes).header;
}

void decode_jpeg(std::string_view bytes, const image_header& header, std::span<uint8_t> rgb) {
  refuse_scan_flood(count_scans(bytes), header);
  if (read_preamble(bytes).num_components != 4)
    return decompress(bytes, header, TJPF_RGB, rgb.data());
  std::vector<uint8_t> cmyk(static_cast<size_t>(4 * header.pixels()));
  decompress(bytes, header, TJPF_CMYK, cmyk.data());
  inverted_cmyk_to_rgb(cmyk, rgb);
}

}  // namespace troupe::model
