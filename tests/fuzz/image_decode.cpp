#include "fuzz/fuzz_input.hpp"
#include "model/vision/byte_reader.hpp"
#include "model/vision/image_processor.hpp"

#include <zlib.h>

#include <optional>

using namespace troupe;

namespace {

constexpr int64_t max_pixels = 128 * 128;

config::preprocessor_config small_config() {
  config::preprocessor_config config;
  config.image_min_pixels = 1024;
  config.image_max_pixels = 128 * 128;
  config.mean = config.std = {0.5f, 0.5f, 0.5f};
  return config;
}

std::optional<model::image_header> header_of(std::string_view bytes) {
  try {
    return model::read_image_header(bytes);
  } catch (const model::image_error&) {
    return std::nullopt;
  }
}

void process(const model::rgb_image& image) {
  static const auto config = small_config();
  try {
    const auto rows = model::process_image(image, config);
    fuzz::expect(rows.grid == model::image_grid(image.size(), config), "grids agree");
    for (const float value : rows.values<float>())
      fuzz::expect(value >= -1 && value <= 1, "pixels are normalised");
  } catch (const model::image_error& error) {
    fuzz::expect(error.why() == model::image_error::reason::bad_shape,
                 "a decoded picture fails by its shape alone");
  }
}

/// Writes the right checksum behind every PNG chunk, so that changes get past it.
void repair_checksums(uint8_t* data, size_t size) {
  const auto bytes = fuzz::as_text(data, size);
  for (size_t at = 8; const auto length = model::read_unsigned(bytes, at, 4, std::endian::big);) {
    if (bytes.size() - at < 12 || *length > bytes.size() - at - 12) return;
    const auto checksum = crc32(0, data + at + 4, *length + 4);
    for (size_t i = 0; i < 4; ++i)
      data[at + 8 + *length + i] = static_cast<uint8_t>(checksum >> (24 - 8 * i));
    at += 12 + size_t{*length};
  }
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t size_max);

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t size_max,
                                          unsigned seed) {
  const size_t mutated = LLVMFuzzerMutate(data, size, size_max);
  if (seed % 4 != 0) repair_checksums(data, mutated);
  return mutated;
}

/// A header that was read must be what decoding gives; a picture without one must not decode.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto bytes = fuzz::as_text(data, size);
  const auto header = header_of(bytes);
  try {
    const auto image = model::decode_image(bytes, max_pixels);
    fuzz::expect(header.has_value(), "what decodes has a header");
    fuzz::expect(header->upright_size() == image.size(), "the header tells the decoded size");
    fuzz::expect(header->pixels() <= max_pixels, "the limit holds");
    fuzz::expect(static_cast<int64_t>(image.pixels.size()) == 3 * header->pixels(),
                 "pixels are RGB");
    process(image);
  } catch (const model::image_error&) {
  }
  return 0;
}
