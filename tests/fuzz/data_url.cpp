#include "actors/http/data_url.hpp"
#include "actors/http/base64.hpp"
#include "fuzz/fuzz_input.hpp"

#include <string>

using namespace troupe;

namespace {

constexpr int64_t bytes_max = 1024;

std::string encode_base64(std::string_view bytes) {
  constexpr char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t group = 0;
    for (size_t j = 0; j < 3; ++j)
      group = group << 8 | (i + j < bytes.size() ? static_cast<uint8_t>(bytes[i + j]) : 0);
    for (size_t j = 0; j < 4; ++j)
      text += i + j <= bytes.size() ? alphabet[group >> (18 - 6 * j) & 63] : '=';
  }
  return text;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto text = fuzz::as_text(data, size);
  const auto url = http::parse_data_url(text, bytes_max);
  if (const auto* bytes = std::get_if<std::string>(&url)) {
    fuzz::expect(bytes->size() <= bytes_max, "the limit holds");
    fuzz::expect(text.ends_with(encode_base64(*bytes)), "the bytes are those of the text");
  } else {
    const auto& error = std::get<http::api_error>(url);
    fuzz::expect(error.status >= 400 && error.status < 500, "a bad address is the client's fault");
  }
  const auto plain = http::decode_base64(text);
  if (!plain.fault_offset)
    fuzz::expect(encode_base64(plain.bytes) == text, "base64 has one spelling");
  else
    fuzz::expect(*plain.fault_offset <= size, "a fault lies within the text");
  return 0;
}
