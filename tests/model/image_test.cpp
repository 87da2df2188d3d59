#include "model/vision/image.hpp"

#include "support/encode_picture.hpp"
#include "support/print_image.hpp"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <ctime>
#include <optional>
#include <random>

namespace troupe::model {
using namespace troupe::testing;

namespace {

using reason = image_error::reason;
constexpr int64_t megapixels_16 = 16'777'216;

/// Processor time, so that a busy machine fails no test.
double cpu_seconds() {
  return static_cast<double>(std::clock()) / CLOCKS_PER_SEC;
}

template <class Action>
std::optional<reason> refusal(Action action) {
  try {
    action();
  } catch (const image_error& error) {
    BOOST_TEST_MESSAGE(error.what());
    return error.why();
  }
  return std::nullopt;
}

std::optional<reason> decode_refusal(std::string_view bytes, int64_t max_pixels = megapixels_16) {
  return refusal([&] { decode_image(bytes, max_pixels); });
}

std::vector<uint8_t> decoded(std::string_view bytes) {
  return decode_image(bytes, megapixels_16).pixels;
}

int largest_difference(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  BOOST_REQUIRE_EQUAL(a.size(), b.size());
  int largest = 0;
  for (size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

std::string repeated(std::string_view text, size_t times) {
  std::string out;
  for (size_t i = 0; i < times; ++i) out += text;
  return out;
}

std::string bytes_of(std::initializer_list<int> values) {
  std::string bytes;
  for (const int value : values) bytes += static_cast<char>(value);
  return bytes;
}

/// One picture per format and kind, 7 x 5 pixels.
std::vector<std::string> valid_pictures() {
  const auto image = gradient(7, 5);
  return {encode_png(image),
          encode_jpeg(image, jpeg_kind::color_444),
          encode_jpeg(image, jpeg_kind::color_420, true),
          encode_jpeg(image, jpeg_kind::grey),
          encode_jpeg(image, jpeg_kind::cmyk),
          encode_webp(image),
          webp_with_chunk(image, "EXIF", exif_block(1, true))};
}

}  // namespace

BOOST_AUTO_TEST_SUITE(image)

BOOST_AUTO_TEST_CASE(header_gives_size_and_format_of_every_kind) {
  for (const auto& bytes : valid_pictures()) {
    const auto header = read_image_header(bytes);
    BOOST_TEST(header.width == 7);
    BOOST_TEST(header.height == 5);
    BOOST_TEST(header.upright_size() == (image_size{5, 7}));
  }
  BOOST_TEST((read_image_header(encode_png(gradient(1, 1))).format == image_format::png));
  BOOST_TEST((read_image_header(encode_webp(gradient(1, 1))).format == image_format::webp));
  BOOST_TEST((read_image_header(encode_jpeg(gradient(1, 1), jpeg_kind::grey)).format ==
              image_format::jpeg));
}

BOOST_AUTO_TEST_CASE(png_and_lossless_webp_decode_exactly) {
  for (const auto& [width, height] : {std::pair{1, 1}, {3, 2}, {64, 33}, {301, 97}}) {
    const auto image = noise(width, height, 1);
    BOOST_TEST(decoded(encode_png(image)) == image.pixels);
    BOOST_TEST(decoded(encode_webp(image)) == image.pixels);
  }
}

BOOST_AUTO_TEST_CASE(jpeg_decodes_within_its_loss) {
  const auto image = gradient(64, 48);
  BOOST_TEST(largest_difference(decoded(encode_jpeg(image, jpeg_kind::color_444)), image.pixels) <=
             4);
  BOOST_TEST(largest_difference(decoded(encode_jpeg(image, jpeg_kind::color_420)), image.pixels) <=
             8);
  BOOST_TEST(decoded(encode_jpeg(image, jpeg_kind::color_420, true)) ==
             decoded(encode_jpeg(image, jpeg_kind::color_420, false)));
}

BOOST_AUTO_TEST_CASE(grey_jpeg_has_equal_channels) {
  const auto pixels = decoded(encode_jpeg(gradient(16, 16), jpeg_kind::grey));
  for (size_t i = 0; i < pixels.size(); i += 3) {
    BOOST_TEST(pixels[i] == pixels[i + 1]);
    BOOST_TEST(pixels[i] == pixels[i + 2]);
  }
}

BOOST_AUTO_TEST_CASE(cmyk_jpeg_is_read_as_inverted_inks) {
  const auto image = gradient(32, 32);
  BOOST_TEST(largest_difference(decoded(encode_jpeg(image, jpeg_kind::cmyk)), image.pixels) <= 4);
}

BOOST_AUTO_TEST_CASE(png_alpha_is_dropped_not_blended) {
  const auto rgba = bytes_of({0, 10, 20, 30, 0, 40, 50, 60, 128});
  const auto png = make_png({2, 1, 8, 6}, rgba);
  BOOST_TEST(decoded(png) == (std::vector<uint8_t>{10, 20, 30, 40, 50, 60}));
  const auto grey_alpha = make_png({2, 1, 8, 4}, bytes_of({0, 77, 0, 200, 255}));
  BOOST_TEST(decoded(grey_alpha) == (std::vector<uint8_t>{77, 77, 77, 200, 200, 200}));
}

BOOST_AUTO_TEST_CASE(png_transparent_colour_changes_nothing) {
  const auto transparent = png_chunk("tRNS", bytes_of({0, 10, 0, 20, 0, 30}));
  const auto png = make_png({1, 1}, bytes_of({0, 10, 20, 30}), transparent);
  BOOST_TEST(decoded(png) == (std::vector<uint8_t>{10, 20, 30}));
}

BOOST_AUTO_TEST_CASE(webp_alpha_is_dropped_not_blended) {
  const auto image = noise(9, 4, 2);
  BOOST_TEST(decoded(encode_webp(image, bytes_of({255, 128, 1}))) == image.pixels);
}

BOOST_AUTO_TEST_CASE(png_palette_of_every_depth) {
  const auto palette = png_chunk("PLTE", bytes_of({1, 2, 3, 40, 50, 60}));
  const std::vector<uint8_t> expected{40, 50, 60, 1, 2, 3};
  BOOST_TEST(decoded(make_png({2, 1, 1, 3}, bytes_of({0, 0b10'000000}), palette)) == expected);
  BOOST_TEST(decoded(make_png({2, 1, 2, 3}, bytes_of({0, 0b0100'0000}), palette)) == expected);
  BOOST_TEST(decoded(make_png({2, 1, 4, 3}, bytes_of({0, 0x10}), palette)) == expected);
  BOOST_TEST(decoded(make_png({2, 1, 8, 3}, bytes_of({0, 1, 0}), palette)) == expected);
}

BOOST_AUTO_TEST_CASE(png_palette_index_past_its_end_is_black) {
  const auto palette = png_chunk("PLTE", bytes_of({1, 2, 3, 40, 50, 60}));
  BOOST_TEST(decoded(make_png({3, 1, 8, 3}, bytes_of({0, 1, 2, 255}), palette)) ==
             (std::vector<uint8_t>{40, 50, 60, 0, 0, 0, 0, 0, 0}));
  BOOST_TEST(decode_refusal(make_png({2, 1, 8, 3}, bytes_of({0, 1, 2}))).value() ==
             reason::corrupt);
}

BOOST_AUTO_TEST_CASE(png_grey_of_every_depth_is_scaled_to_8_bits) {
  BOOST_TEST(decoded(make_png({2, 1, 1, 0}, bytes_of({0, 0b01'000000}))) ==
             (std::vector<uint8_t>{0, 0, 0, 255, 255, 255}));
  BOOST_TEST(decoded(make_png({2, 1, 2, 0}, bytes_of({0, 0b0110'0000}))) ==
             (std::vector<uint8_t>{85, 85, 85, 170, 170, 170}));
  BOOST_TEST(decoded(make_png({2, 1, 4, 0}, bytes_of({0, 0x3F}))) ==
             (std::vector<uint8_t>{51, 51, 51, 255, 255, 255}));
}

BOOST_AUTO_TEST_CASE(png_16_bit_channels_keep_their_high_byte) {
  BOOST_TEST(decoded(make_png({1, 1, 16, 2}, bytes_of({0, 10, 255, 20, 0, 30, 128}))) ==
             (std::vector<uint8_t>{10, 20, 30}));
  BOOST_TEST(decoded(make_png({2, 1, 16, 0}, bytes_of({0, 10, 255, 255, 255}))) ==
             (std::vector<uint8_t>{10, 10, 10, 255, 255, 255}));
}

BOOST_AUTO_TEST_CASE(png_interlaced_decodes_like_plain) {
  // 3 x 3 grey in Adam7 order: pass 1 (0,0); 6 (1,0); 5 (0,2), (2,2); 4 (2,0); 7 row 1.
  const auto scanlines = bytes_of({0, 1,          // pass 1: (0,0)
                                   0, 3,          // pass 4: x = 2, y = 0
                                   0, 7, 9,       // pass 5: y = 2, x = 0, 2
                                   0, 2,          // pass 6: y = 0, x = 1
                                   0, 8,          //         y = 2, x = 1
                                   0, 4, 5, 6});  // pass 7: y = 1
  const auto pixels = decoded(make_png({3, 3, 8, 0, 1}, scanlines));
  for (size_t i = 0; i < 9; ++i) BOOST_TEST(pixels[3 * i] == i + 1);
}

BOOST_AUTO_TEST_CASE(png_ignores_what_makes_no_pixels) {
  const auto image = noise(5, 4, 3);
  const auto extra = png_chunk("acTL", bytes_of({0, 0, 0, 1, 0, 0, 0, 0})) +
                     png_chunk("tEXt", repeated("x", 100'000)) + png_chunk("gAMA", "abc");
  BOOST_TEST(decoded(encode_png(image, extra)) == image.pixels);
}

BOOST_AUTO_TEST_CASE(png_unknown_critical_chunk_is_refused) {
  const auto png = encode_png(gradient(2, 2), png_chunk("ABCD", "x"));
  BOOST_TEST(decode_refusal(png).value() == reason::corrupt);
}

BOOST_AUTO_TEST_CASE(png_impossible_headers_are_refused) {
  const auto line = bytes_of({0, 1, 2, 3});
  for (const png_layout layout : {png_layout{0, 1}, {1, 0}, {0x80000000u, 1}, {1, 0xFFFFFFFFu}})
    BOOST_TEST(refusal([&] { read_image_header(make_png(layout, line)); }).value() ==
               reason::corrupt);
  for (const png_layout layout :
       {png_layout{1, 1, 3, 2}, {1, 1, 8, 1}, {1, 1, 16, 3}, {1, 1, 8, 2, 2}})
    BOOST_TEST(decode_refusal(make_png(layout, line)).value() == reason::corrupt);
}

BOOST_AUTO_TEST_CASE(png_wrong_checksum_of_pixels_is_refused) {
  auto png = encode_png(gradient(20, 20));
  png[png.size() - 14] ^= 1;  // the last checksum byte of IDAT
  BOOST_TEST(decode_refusal(png).value() == reason::corrupt);
}

BOOST_AUTO_TEST_CASE(bomb_is_refused_from_its_header) {
  const double start = cpu_seconds();  // of microseconds: billions of pixels would take minutes
  BOOST_TEST(decode_refusal(make_png({50'000, 50'000}, "")).value() == reason::too_large);
  BOOST_TEST(decode_refusal(make_png({0x7FFFFFFF, 0x7FFFFFFF}, "")).value() == reason::too_large);
  BOOST_TEST(decode_refusal(encode_png(gradient(11, 10)), 109).value() == reason::too_large);
  BOOST_TEST(!decode_refusal(encode_png(gradient(11, 10)), 110));
  BOOST_TEST(cpu_seconds() - start < 2);
}

BOOST_AUTO_TEST_CASE(other_formats_are_refused_by_their_magic) {
  for (const std::string bytes :
       {"", "\x89PN", "GIF89a\1\0\1\0", "BM\x46\0", "II*\0\x8\0\0\0", "<svg>",
        "\0\0\0\x0CjP  \r\n\x87\n", "RIFF\x10\0\0\0WAVEfmt ", "\xFF\xD8"})
    BOOST_TEST(refusal([&] { read_image_header(bytes); }).value() == reason::unsupported_format);
}

BOOST_AUTO_TEST_CASE(jpeg_of_other_processes_is_refused) {
  const auto jpeg = encode_jpeg(gradient(8, 8), jpeg_kind::color_444);
  const auto frame = jpeg.find("\xFF\xC0");
  BOOST_REQUIRE(frame != std::string::npos);
  for (const int process : {0xC3, 0xC5, 0xC9, 0xCA, 0xCB, 0xCF}) {
    auto changed = jpeg;
    changed[frame + 1] = static_cast<char>(process);
    BOOST_TEST(decode_refusal(changed).value() == reason::unsupported_format);
  }
  auto twelve_bit = jpeg;
  twelve_bit[frame + 4] = 12;
  BOOST_TEST(decode_refusal(twelve_bit).value() == reason::unsupported_format);
  auto two_components = jpeg;
  two_components[frame + 9] = 2;
  BOOST_TEST(decode_refusal(two_components).value() == reason::unsupported_format);
}

BOOST_AUTO_TEST_CASE(jpeg_with_a_flood_of_scans_is_refused_quickly) {
  const auto jpeg = encode_jpeg(gradient(2048, 2048), jpeg_kind::grey, true);
  const auto last_scan = jpeg.rfind("\xFF\xDA");
  const auto end = jpeg.rfind("\xFF\xD9");
  const auto scan = jpeg.substr(last_scan, end - last_scan);
  const auto flooded = jpeg.substr(0, end) + repeated(scan, 5000) + jpeg.substr(end);
  BOOST_TEST(!decode_refusal(jpeg));
  const double start = cpu_seconds();  // of milliseconds: all scans would take minutes
  BOOST_TEST(decode_refusal(flooded).value() == reason::too_large);
  BOOST_TEST(cpu_seconds() - start < 20);
}

BOOST_AUTO_TEST_CASE(animated_webp_is_refused) {
  const std::string flags("\x02\0\0\0", 4);  // animation
  const std::string body = flags + bytes_of({9, 0, 0, 9, 0, 0});
  const std::string chunks =
      "VP8X" + bytes_of({10, 0, 0, 0}) + body + "ANIM" + bytes_of({6, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  const auto webp =
      "RIFF" + bytes_of({static_cast<int>(chunks.size()) + 4, 0, 0, 0}) + "WEBP" + chunks;
  BOOST_TEST(refusal([&] { read_image_header(webp); }).value() == reason::unsupported_format);
}

/// How the picture 01 / 23 / 45 is stored under each orientation.
constexpr uint8_t stored_values[8][6] = {{0, 1, 2, 3, 4, 5}, {1, 0, 3, 2, 5, 4}, {5, 4, 3, 2, 1, 0},
                                         {4, 5, 2, 3, 0, 1}, {0, 2, 4, 1, 3, 5}, {1, 3, 5, 0, 2, 4},
                                         {5, 3, 1, 4, 2, 0}, {4, 2, 0, 5, 3, 1}};

rgb_image grey_picture(int32_t width, int32_t height, const uint8_t (&values)[6]) {
  rgb_image image{width, height, {}};
  for (const uint8_t value : values) image.pixels.insert(image.pixels.end(), 3, value);
  return image;
}

BOOST_DATA_TEST_CASE(orientation_is_applied, boost::unit_test::data::xrange(1, 9), orientation) {
  const auto upright = grey_picture(2, 3, stored_values[0]);
  const bool lies = orientation >= 5;
  const auto stored = grey_picture(lies ? 3 : 2, lies ? 2 : 3, stored_values[orientation - 1]);
  for (const bool big_endian : {false, true}) {
    const auto exif = exif_block(static_cast<uint16_t>(orientation), big_endian);
    for (const auto& bytes :
         {encode_png(stored, png_chunk("eXIf", exif)),
          encode_png(stored, {}, png_chunk("eXIf", exif)), webp_with_chunk(stored, "EXIF", exif)}) {
      BOOST_TEST(read_image_header(bytes).upright_size() == (image_size{3, 2}));
      const auto image = decode_image(bytes, 6);
      BOOST_TEST(image.size() == (image_size{3, 2}));
      BOOST_TEST(image.pixels == upright.pixels);
    }
  }
}

BOOST_AUTO_TEST_CASE(jpeg_orientation_comes_from_its_first_exif_segment) {
  const auto jpeg = encode_jpeg(gradient(16, 8), jpeg_kind::color_444);
  const std::string prefix("Exif\0\0", 6);
  const auto turned = with_segment(with_segment(jpeg, 0xE1, prefix + exif_block(1, true)), 0xE1,
                                   prefix + exif_block(6, false));
  BOOST_TEST(read_image_header(turned).upright_size() == (image_size{16, 8}));
  BOOST_TEST(decode_image(turned, 128).size() == (image_size{16, 8}));
  const auto other_app1 = with_segment(turned, 0xE1, "http://ns.adobe.com/xap/1.0/");
  BOOST_TEST(read_image_header(other_app1).upright_size() == (image_size{16, 8}));
}

BOOST_AUTO_TEST_CASE(damaged_exif_means_upright) {
  const auto whole = exif_block(6, true);
  for (size_t size = 0; size < whole.size() - 6; ++size) {
    const auto png = encode_png(gradient(3, 2), png_chunk("eXIf", whole.substr(0, size)));
    BOOST_TEST(read_image_header(png).upright_size() == (image_size{2, 3}));
  }
  for (const int value : {0, 9, 65535}) {
    const auto png = encode_png(gradient(3, 2),
                                png_chunk("eXIf", exif_block(static_cast<uint16_t>(value), false)));
    BOOST_TEST(read_image_header(png).upright_size() == (image_size{2, 3}));
  }
}

BOOST_AUTO_TEST_CASE(every_cut_of_every_picture_is_refused) {
  for (const auto& bytes : valid_pictures()) {
    BOOST_TEST(!decode_refusal(bytes));
    for (size_t size = 0; size + 1 < bytes.size(); ++size) {
      const auto cut = bytes.substr(0, size);
      // The last bytes of a PNG (IEND) and of an extended WebP (metadata) carry no pixel.
      if (!decode_refusal(cut)) BOOST_TEST(decoded(cut) == decoded(bytes));
    }
    BOOST_TEST(decode_refusal(bytes.substr(0, bytes.size() / 2)).has_value());
  }
}

BOOST_AUTO_TEST_CASE(random_damage_never_crashes) {
  std::mt19937_64 random(42);
  for (const auto& bytes : valid_pictures()) {
    for (int round = 0; round < 2000; ++round) {
      auto damaged = bytes;
      for (int i = 0; i < 3; ++i) damaged[random() % damaged.size()] = static_cast<char>(random());
      const auto why = decode_refusal(damaged, 1 << 20);
      BOOST_TEST((!why || *why != reason::bad_shape));
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace troupe::model
