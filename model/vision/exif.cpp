#include "model/vision/exif.hpp"

#include "model/vision/byte_reader.hpp"

#include <optional>

namespace troupe::model {
namespace {

constexpr std::string_view prefix{"Exif\0\0", 6};
constexpr uint32_t orientation_tag = 0x0112;
constexpr uint32_t type_short = 3;
constexpr size_t entry_bytes = 12;

std::optional<std::endian> tiff_byte_order(std::string_view tiff) {
  if (tiff.starts_with(std::string_view{"II*\0", 4})) return std::endian::little;
  if (tiff.starts_with(std::string_view{"MM\0*", 4})) return std::endian::big;
  return std::nullopt;
}

std::optional<uint32_t> first_directory_value(std::string_view tiff, std::endian order,
                                              uint32_t tag) {
  const auto directory = read_unsigned(tiff, 4, 4, order);
  if (!directory) return std::nullopt;
  const auto num_entries = read_unsigned(tiff, *directory, 2, order);
  if (!num_entries) return std::nullopt;
  for (size_t i = 0; i < *num_entries; ++i) {
    const size_t entry = size_t{*directory} + 2 + i * entry_bytes;
    const auto found = read_unsigned(tiff, entry, 2, order);
    if (!found) return std::nullopt;
    if (*found != tag) continue;
    if (read_unsigned(tiff, entry + 2, 2, order) != type_short) return std::nullopt;
    return read_unsigned(tiff, entry + 8, 2, order);
  }
  return std::nullopt;
}

}  // namespace

image_orientation exif_orientation(std::string_view exif) {
  if (exif.starts_with(prefix)) exif.remove_prefix(prefix.size());
  const auto order = tiff_byte_order(exif);
  if (!order) return image_orientation::top_left;
  const auto value = first_directory_value(exif, *order, orientation_tag);
  if (!value || *value < 1 || *value > 8) return image_orientation::top_left;
  return static_cast<image_orientation>(*value);
}

}  // namespace troupe::model
