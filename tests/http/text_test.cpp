// The small codecs: JSON text, base64, data URLs, paths.
#include "actors/http/api_error.hpp"
#include "actors/http/api_keys.hpp"
#include "actors/http/base64.hpp"
#include "actors/http/data_url.hpp"
#include "actors/http/http_message.hpp"
#include "actors/http/json_text.hpp"
#include "config/json.hpp"

#include <boost/test/unit_test.hpp>

#include <limits>
#include <random>
#include <string>
#include <variant>

namespace troupe::http {
namespace {

std::string text_of(std::string_view bytes) {
  std::string out;
  append_text(out, bytes);
  return out;
}

/// The plain definition, three bytes at a time.
std::string encode_base64(std::string_view bytes) {
  constexpr std::string_view alphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j)
      out += i + j > bytes.size() ? '=' : alphabet[group >> (18 - 6 * j) & 63];
  }
  return out;
}

BOOST_AUTO_TEST_SUITE(json_text)

BOOST_AUTO_TEST_CASE(escapes_what_json_forbids) {
  BOOST_TEST(text_of("a\"b\\c\n\r\t\x01") == R"("a\"b\\c\n\r\t\u0001")");
  BOOST_TEST(text_of("Zürich 東京 😀") == "\"Zürich 東京 😀\"");
  BOOST_TEST(text_of(std::string_view("\0", 1)) == R"("\u0000")");
}

BOOST_AUTO_TEST_CASE(replaces_each_maximal_invalid_part) {
  const std::string unknown = "\xEF\xBF\xBD";
  BOOST_TEST(text_of("\xE6\x9D") == "\"" + unknown + "\"");  // cut character
  BOOST_TEST(text_of("\xE6\x9D"
                     "a") == "\"" + unknown + "a\"");
  BOOST_TEST(text_of("\xC0\xAF") == "\"" + unknown + unknown + "\"");                // overlong
  BOOST_TEST(text_of("\xED\xA0\x80") == "\"" + unknown + unknown + unknown + "\"");  // surrogate
  BOOST_TEST(text_of("\xF4\x90\x80\x80") ==
             "\"" + unknown + unknown + unknown + unknown + "\"");  // over U+10FFFF
  BOOST_TEST(text_of("\xF0\x9F\x98") == "\"" + unknown + "\"");
}

BOOST_AUTO_TEST_CASE(any_bytes_become_valid_json) {
  std::mt19937 random(1);
  for (int round = 0; round < 2'000; ++round) {
    std::string bytes(random() % 24, '\0');
    for (auto& byte : bytes)
      byte = static_cast<char>(random() % 4 == 0 ? random() : 0xE0 + random() % 32);
    BOOST_CHECK_NO_THROW(config::parse_json("[" + text_of(bytes) + "]"));
  }
}

BOOST_AUTO_TEST_CASE(byte_arrays_and_logprobs) {
  std::string out;
  append_byte_array(out, "h\xFF");
  BOOST_TEST(out == "[104,255]");
  out.clear();
  append_logprob(out, -std::numeric_limits<float>::infinity());
  BOOST_TEST(out == "-9999");
}

BOOST_AUTO_TEST_CASE(excerpts_are_cut_between_characters) {
  const auto shown = excerpt("é" + std::string(62, 'a') + "éa");
  BOOST_TEST(shown == "\"é" + std::string(62, 'a') + "…\"");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(base64)

BOOST_AUTO_TEST_CASE(decodes_what_was_encoded) {
  std::mt19937 random(2);
  for (size_t size = 0; size < 200; ++size) {
    std::string bytes(size, '\0');
    for (auto& byte : bytes) byte = static_cast<char>(random());
    const auto decoded = decode_base64(encode_base64(bytes));
    BOOST_TEST(!decoded.fault_offset);
    BOOST_TEST(decoded.bytes == bytes);
  }
}

BOOST_AUTO_TEST_CASE(names_the_first_character_that_does_not_belong) {
  const auto fault = [](std::string_view text) { return decode_base64(text).fault_offset.value(); };
  BOOST_TEST(fault("AAAA!AAA") == 4u);
  BOOST_TEST(fault("AAA") == 3u);    // ends too early
  BOOST_TEST(fault("AA\nA") == 2u);  // white space
  BOOST_TEST(fault("A===") == 1u);
  BOOST_TEST(fault("AA=A") == 2u);
  BOOST_TEST(fault("AA==AAAA") == 2u);  // padding before the end
  BOOST_TEST(fault("AA-_") == 2u);      // the URL alphabet
}

BOOST_AUTO_TEST_CASE(refuses_bits_that_padding_would_drop) {
  BOOST_TEST(!decode_base64("QQ==").fault_offset);
  BOOST_TEST(decode_base64("QR==").fault_offset.has_value());
  BOOST_TEST(decode_base64("QUJ=").fault_offset.has_value());
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(data_url)

std::string bytes_of(std::string_view url) {
  return std::get<std::string>(parse_data_url(url, 1024));
}
api_error error_of(std::string_view url, int64_t bytes_max = 1024) {
  return std::get<api_error>(parse_data_url(url, bytes_max));
}

BOOST_AUTO_TEST_CASE(takes_base64_content_under_any_media_type) {
  BOOST_TEST(bytes_of("data:image/png;base64,aGk=") == "hi");
  BOOST_TEST(bytes_of("data:;base64,aGk=") == "hi");
  BOOST_TEST(bytes_of("DATA:image/jpeg;charset=x;BASE64,aGk=") == "hi");
}

BOOST_AUTO_TEST_CASE(refuses_everything_else_by_name) {
  for (const auto* url : {"http://127.0.0.1/a.png", "https://a/b", "file:///etc/passwd", "FTP://a"})
    BOOST_TEST(error_of(url).code == "unsupported_url");
  for (const auto* url : {"", "data:", "data:image/png;base64", "data:image/png,abc", "data:,",
                          "data:image/png;base64,", "blob:x", "//host/a.png"})
    BOOST_TEST(error_of(url).code == "invalid_url");
  BOOST_TEST(error_of("data:;base64,a").code == "invalid_base64");
  BOOST_TEST(error_of("data:" + std::string(1'000, 'a') + ";base64,aGk=").code == "invalid_url");
}

BOOST_AUTO_TEST_CASE(refuses_size_before_decoding) {
  const auto error = error_of("data:;base64," + std::string(4'000, '!'), 1'000);
  BOOST_TEST(error.status == 413);
  BOOST_TEST(error.code == "request_too_large");
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(http_text)

BOOST_AUTO_TEST_CASE(paths_become_canonical) {
  BOOST_TEST(canonical_path("/v1/models") == "/models");
  BOOST_TEST(canonical_path("/models/") == "/models");
  BOOST_TEST(canonical_path("/v1/models/org%2Fname?x=1") == "/models/org/name");
  BOOST_TEST(canonical_path("http://host:1/v1/chat/completions") == "/chat/completions");
  BOOST_TEST(canonical_path("http://host") == "/");
  BOOST_TEST(canonical_path("/v1") == "/");
  BOOST_TEST(canonical_path("/v10") == "/v10");
  BOOST_TEST(canonical_path("/a%0d%0ab") == "");
  BOOST_TEST(canonical_path("/a%4") == "");
  BOOST_TEST(canonical_path("health") == "");
}

BOOST_AUTO_TEST_CASE(hosts_are_names_with_a_port) {
  for (const auto* host : {"localhost", "127.0.0.1:8000", "[::1]:8000", "a-b.example"})
    BOOST_TEST(valid_host(host));
  for (const auto* host : {"", "a/b", "a b", "a@b", "a\\b", "a?b"}) BOOST_TEST(!valid_host(host));
}

BOOST_AUTO_TEST_CASE(request_ids_are_echoed_if_harmless) {
  BOOST_TEST(request_id_for("req-1.a_b:c") == "req-1.a_b:c");
  BOOST_TEST(request_id_for("a\"b").starts_with("req-"));
  BOOST_TEST(request_id_for(std::string(500, 'a')).starts_with("req-"));
  BOOST_TEST(request_id_for("") != request_id_for(""));
}

BOOST_AUTO_TEST_CASE(keys_open_by_digest) {
  const api_keys keys({"secret-1", "secret-2"});
  BOOST_TEST(keys.accept("Bearer secret-1"));
  BOOST_TEST(keys.accept("bearer secret-2"));
  for (const auto* wrong : {"", "Bearer", "Bearer ", "Bearer secret", "Bearer secret-11",
                            "Basic secret-1", "secret-1", "Bearer  secret-1"})
    BOOST_TEST(!keys.accept(wrong));
  BOOST_TEST(!api_keys({}).required());
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::http
