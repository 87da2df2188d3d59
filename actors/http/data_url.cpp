#include "actors/http/data_url.hpp"

#include "actors/http/base64.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::http {

namespace {

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  const auto lower = [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; };
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [&](char x, char y) { return lower(x) == lower(y); });
}

bool starts_with_ignoring_case(std::string_view text, std::string_view prefix) {
  return text.size() >= prefix.size() && equal_ignoring_case(text.substr(0, prefix.size()), prefix);
}

api_error not_a_data_url(std::string_view url) {
  for (std::string_view scheme : {"http:", "https:", "file:", "ftp:"})
    if (starts_with_ignoring_case(url, scheme))
      return make_error(400, "unsupported_url",
                        fmt::format("this server does not fetch {}// addresses, expected a data: "
                                    "URL with base64 content",
                                    scheme));
  return make_error(
      400, "invalid_url",
      fmt::format("found {}, expected a data: URL with base64 content", excerpt(url)));
}

}  // namespace

std::variant<std::string, api_error> parse_data_url(std::string_view url, int64_t bytes_max) {
  constexpr std::string_view scheme = "data:";
  constexpr std::string_view marker = ";base64";
  // Longer headers are no media type; the bound keeps the search for the comma short.
  constexpr size_t header_bytes_max = 256;
  if (!starts_with_ignoring_case(url, scheme)) return not_a_data_url(url);
  const auto comma = url.substr(0, header_bytes_max).find(',');
  if (comma == std::string_view::npos)
    return make_error(400, "invalid_url", "the data: URL has no comma before its content");
  const auto header = url.substr(0, comma);
  if (header.size() < marker.size() ||
      !equal_ignoring_case(header.substr(header.size() - marker.size()), marker))
    return make_error(400, "invalid_url",
                      fmt::format("found {}, expected a data: URL that says \";base64,\"",
                                  excerpt(url.substr(0, comma + 1))));
  const auto content = url.substr(comma + 1);
  if (content.empty())
    return make_error(400, "invalid_url", "the data: URL is empty after its comma");
  if (base64_decoded_bytes_max(content.size()) > static_cast<size_t>(bytes_max))
    return make_error(413, "request_too_large",
                      fmt::format("the data: URL holds {} bytes, at most {} are allowed",
                                  base64_decoded_bytes_max(content.size()), bytes_max));
  auto decoded = decode_base64(content);
  if (decoded.fault_offset)
    return make_error(400, "invalid_base64",
                      fmt::format("the data: URL is not valid base64 at character {} of {}",
                                  *decoded.fault_offset, content.size()));
  return std::move(decoded.bytes);
}

}  // namespace troupe::http
