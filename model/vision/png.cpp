#include "model/vision/byte_reader.hpp"
#include "model/vision/exif.hpp"
#include "model/vision/image_codecs.hpp"

#include <spng.h>

#include <memory>
#include <new>
#include <optional>
#include <string>

namespace troupe::model {
namespace {

constexpr std::string_view signature{"\x89PNG\r\n\x1a\n", 8};
constexpr size_t chunk_overhead = 12;  // length, type, checksum
constexpr uint32_t ihdr_bytes = 13;

struct png_chunk {
  std::string_view type;
  std::string_view body;
  std::string_view whole;  // with length, type and checksum
};

/// The chunk at the start of `rest`, cut off from it; nothing at the end or before a cut chunk.
std::optional<png_chunk> take_chunk(std::string_view& rest) {
  const auto length = read_unsigned(rest, 0, 4, std::endian::big);
  if (!length || rest.size() < chunk_overhead + *length) return std::nullopt;
  const png_chunk chunk{rest.substr(4, 4), rest.substr(8, *length),
                        rest.substr(0, chunk_overhead + *length)};
  rest.remove_prefix(chunk.whole.size());
  return chunk;
}

/// Calls `visit` on each whole chunk up to IEND.
template <class Visit>
void for_each_chunk(std::string_view bytes, Visit visit) {
  bytes.remove_prefix(signature.size());
  while (const auto chunk = take_chunk(bytes)) {
    visit(*chunk);
    if (chunk->type == "IEND") return;
  }
}

/// The signature and the chunks that make pixels. What else a file carries (text, profiles, times,
/// animation frames) is never parsed or inflated.
std::string pixel_chunks(std::string_view bytes) {
  std::string kept{signature};
  kept.reserve(bytes.size());
  for_each_chunk(bytes, [&kept](const png_chunk& chunk) {
    const bool critical = (chunk.type[0] & 0x20) == 0;  // an upper-case first letter
    if (critical) kept += chunk.whole;
  });
  return kept;
}

struct free_context {
  void operator()(spng_ctx* context) const { spng_ctx_free(context); }
};

}  // namespace

bool is_png(std::string_view bytes) {
  return bytes.starts_with(signature);
}

image_header read_png_header(std::string_view bytes) {
  auto rest = bytes.substr(signature.size());
  const auto ihdr = take_chunk(rest);
  if (!ihdr || ihdr->type != "IHDR" || ihdr->body.size() != ihdr_bytes)
    throw_corrupt("a PNG starts with an IHDR chunk of {} bytes, this one does not", ihdr_bytes);
  auto header = sized_header(image_format::png, *read_unsigned(ihdr->body, 0, 4, std::endian::big),
                             *read_unsigned(ihdr->body, 4, 4, std::endian::big));
  for_each_chunk(bytes, [&header](const png_chunk& chunk) {
    if (chunk.type == "eXIf") header.orientation = exif_orientation(chunk.body);
  });
  return header;
}

void decode_png(std::string_view bytes, const image_header& header, std::span<uint8_t> rgb) {
  const std::unique_ptr<spng_ctx, free_context> context{spng_ctx_new(0)};
  if (!context) throw std::bad_alloc();
  const auto chunks = pixel_chunks(bytes);
  const bool decoded =
      spng_set_image_limits(context.get(), static_cast<uint32_t>(header.width),
                            static_cast<uint32_t>(header.height)) == SPNG_OK &&
      spng_set_png_buffer(context.get(), chunks.data(), chunks.size()) == SPNG_OK &&
      spng_decode_image(context.get(), rgb.data(), rgb.size(), SPNG_FMT_RGB8, 0) == SPNG_OK &&
      spng_decode_chunks(context.get()) == SPNG_OK;  // the last checksum and the end marker
  if (!decoded) throw_corrupt("the PNG data is damaged or cut short");
}

}  // namespace troupe::model
