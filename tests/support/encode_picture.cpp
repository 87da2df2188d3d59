#include "support/encode_picture.hpp"

#include "config/ensure.hpp"

#include <turbojpeg.h>
#include <webp/encode.h>
#include <zlib.h>

#include <memory>
#include <random>

namespace troupe::testing {
namespace {

std::string big_endian(uint32_t value) {
  std::string bytes;
  for (int shift = 24; shift >= 0; shift -= 8) bytes += static_cast<char>(value >> shift);
  return bytes;
}

std::string little_endian(uint32_t value, int num_bytes) {
  std::string bytes;
  for (int i = 0; i < num_bytes; ++i) bytes += static_cast<char>(value >> (8 * i));
  return bytes;
}

std::string deflated(std::string_view bytes) {
  uLongf size = compressBound(bytes.size());
  std::string out(size, '\0');
  const int status = compress(reinterpret_cast<Bytef*>(out.data()), &size,
                              reinterpret_cast<const Bytef*>(bytes.data()), bytes.size());
  config::ensure(status == Z_OK, "compress failed with {}", status);
  out.resize(size);
  return out;
}

std::vector<uint8_t> inverted_inks(const model::rgb_image& image) {
  std::vector<uint8_t> cmyk;
  for (size_t i = 0; i < image.pixels.size(); i += 3) {
    cmyk.insert(cmyk.end(), image.pixels.begin() + i, image.pixels.begin() + i + 3);
    cmyk.push_back(255);
  }
  return cmyk;
}

struct destroy_compressor {
  void operator()(void* handle) const { tjDestroy(handle); }
};

struct free_jpeg {
  void operator()(uint8_t* bytes) const { tjFree(bytes); }
};

struct free_webp {
  void operator()(uint8_t* bytes) const { WebPFree(bytes); }
};

std::string riff(std::string_view chunks) {
  return "RIFF" + little_endian(static_cast<uint32_t>(chunks.size() + 4), 4) + "WEBP" +
         std::string(chunks);
}

std::string riff_chunk(std::string_view type, std::string_view body) {
  std::string chunk(type);
  chunk += little_endian(static_cast<uint32_t>(body.size()), 4);
  chunk += body;
  if (body.size() % 2 != 0) chunk += '\0';
  return chunk;
}

}  // namespace

model::rgb_image gradient(int32_t width, int32_t height) {
  model::rgb_image image{width, height, {}};
  for (int32_t y = 0; y < height; ++y)
    for (int32_t x = 0; x < width; ++x)
      for (const int32_t value :
           {255 * x / width, 255 * y / height, 255 - 127 * (x + y) / (width + height)})
        image.pixels.push_back(static_cast<uint8_t>(value));
  return image;
}

model::rgb_image noise(int32_t width, int32_t height, uint64_t seed) {
  std::mt19937_64 random(seed);
  model::rgb_image image{width, height, std::vector<uint8_t>(size_t(3) * width * height)};
  for (auto& value : image.pixels) value = static_cast<uint8_t>(random());
  return image;
}

std::string png_chunk(std::string_view type, std::string_view body) {
  std::string typed(type);
  typed += body;
  const auto checksum =
      crc32(0, reinterpret_cast<const Bytef*>(typed.data()), static_cast<uInt>(typed.size()));
  return big_endian(static_cast<uint32_t>(body.size())) + typed +
         big_endian(static_cast<uint32_t>(checksum));
}

std::string png_signature() {
  return "\x89PNG\r\n\x1a\n";
}

std::string png_header_chunk(const png_layout& layout) {
  std::string body = big_endian(layout.width) + big_endian(layout.height);
  for (const uint8_t value :
       {layout.bit_depth, layout.color_type, uint8_t{0}, uint8_t{0}, layout.interlace})
    body += static_cast<char>(value);
  return png_chunk("IHDR", body);
}

std::string make_png(const png_layout& layout, std::string_view scanlines, std::string_view extra,
                     std::string_view trailing) {
  std::string png = png_signature() + png_header_chunk(layout);
  png += extra;
  png += png_chunk("IDAT", deflated(scanlines));
  png += trailing;
  return png + png_chunk("IEND", {});
}

std::string encode_png(const model::rgb_image& image, std::string_view extra,
                       std::string_view trailing) {
  const auto row_bytes = size_t(3) * image.width;
  std::string scanlines;
  for (int32_t y = 0; y < image.height; ++y) {
    scanlines += '\0';
    scanlines.append(reinterpret_cast<const char*>(image.pixels.data() + row_bytes * y), row_bytes);
  }
  const png_layout layout{static_cast<uint32_t>(image.width), static_cast<uint32_t>(image.height)};
  return make_png(layout, scanlines, extra, trailing);
}

std::string encode_jpeg(const model::rgb_image& image, jpeg_kind kind, bool progressive) {
  const std::unique_ptr<void, destroy_compressor> handle{tjInitCompress()};
  const auto inks = kind == jpeg_kind::cmyk ? inverted_inks(image) : std::vector<uint8_t>{};
  const int subsampling = kind == jpeg_kind::color_420 ? TJSAMP_420
                          : kind == jpeg_kind::grey    ? TJSAMP_GRAY
                                                       : TJSAMP_444;
  uint8_t* bytes = nullptr;
  unsigned long size = 0;
  const int status =
      tjCompress2(handle.get(), inks.empty() ? image.pixels.data() : inks.data(), image.width, 0,
                  image.height, inks.empty() ? TJPF_RGB : TJPF_CMYK, &bytes, &size, subsampling, 95,
                  progressive ? TJFLAG_PROGRESSIVE : 0);
  const std::unique_ptr<uint8_t, free_jpeg> owner{bytes};
  config::ensure(status == 0, "tjCompress2 failed: {}", tjGetErrorStr2(handle.get()));
  return {reinterpret_cast<const char*>(bytes), size};
}

std::string with_segment(std::string_view jpeg, uint8_t code, std::string_view body) {
  std::string out(jpeg.substr(0, 2));
  out += '\xFF';
  out += static_cast<char>(code);
  out += big_endian(static_cast<uint32_t>(body.size() + 2)).substr(2);
  out += body;
  out += jpeg.substr(2);
  return out;
}

std::string encode_webp(const model::rgb_image& image, std::string_view alpha) {
  uint8_t* bytes = nullptr;
  size_t size = 0;
  if (alpha.empty()) {
    size = WebPEncodeLosslessRGB(image.pixels.data(), image.width, image.height, 3 * image.width,
                                 &bytes);
  } else {
    std::vector<uint8_t> rgba;
    for (size_t i = 0; i < image.pixels.size(); i += 3) {
      rgba.insert(rgba.end(), image.pixels.begin() + i, image.pixels.begin() + i + 3);
      rgba.push_back(static_cast<uint8_t>(alpha[i / 3 % alpha.size()]));
    }
    size = WebPEncodeLosslessRGBA(rgba.data(), image.width, image.height, 4 * image.width, &bytes);
  }
  const std::unique_ptr<uint8_t, free_webp> owner{bytes};
  config::ensure(size > 0, "WebP encoding failed");
  return {reinterpret_cast<const char*>(bytes), size};
}

std::string webp_with_chunk(const model::rgb_image& image, std::string_view type,
                            std::string_view body) {
  constexpr char exif_flag = 0x08;
  const std::string simple = encode_webp(image);
  std::string extended =
      riff_chunk("VP8X", std::string(1, exif_flag) + std::string(3, '\0') +
                             little_endian(static_cast<uint32_t>(image.width - 1), 3) +
                             little_endian(static_cast<uint32_t>(image.height - 1), 3));
  extended += simple.substr(12);
  extended += riff_chunk(type, body);
  return riff(extended);
}

std::string exif_block(uint16_t orientation, bool big) {
  const auto word = [big](uint32_t value) {
    return big ? big_endian(value).substr(2) : little_endian(value, 2);
  };
  const auto long_word = [big](uint32_t value) {
    return big ? big_endian(value) : little_endian(value, 4);
  };
  return (big ? "MM" : "II") + word(42) + long_word(8) + word(1) + word(0x0112) + word(3) +
         long_word(1) + word(orientation) + word(0) + long_word(0);
}

}  // namespace troupe::testing
