#include "actors/http/http_message.hpp"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <boost/beast/http/status.hpp>

#include <algorithm>
#include <iterator>
#include <optional>
#include <random>

namespace troupe::http {

namespace {

bool is_alphanumeric(char c) {
  return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/// Percent-decodes; nullopt if an escape is malformed or hides a control character.
std::optional<std::string> percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    if (i + 2 >= text.size()) return std::nullopt;
    const int high = hex_digit(text[i + 1]), low = hex_digit(text[i + 2]);
    if (high < 0 || low < 0 || high * 16 + low < 0x20) return std::nullopt;
    out += static_cast<char>(high * 16 + low);
    i += 2;
  }
  return out;
}

/// The origin form of a target in absolute form ("http://host/path").
std::string_view origin_form(std::string_view target) {
  const auto scheme = target.find("://");
  if (target.starts_with('/') || scheme == std::string_view::npos) return target;
  const auto path = target.find('/', scheme + 3);
  return path == std::string_view::npos ? "/" : target.substr(path);
}

/// "400 Bad Request (invalid_value)": some clients show this line alone.
std::string status_line(const http_response& response) {
  namespace beast_http = boost::beast::http;
  const auto reason = beast_http::obsolete_reason(
      beast_http::int_to_status(static_cast<unsigned>(response.status)));
  const std::string_view phrase(reason.data(), reason.size());
  if (response.code.empty()) return fmt::format("{} {}", response.status, phrase);
  return fmt::format("{} {} ({})", response.status, phrase, response.code);
}

}  // namespace

http_response json_response(std::string body) {
  http_response response;
  response.body = std::move(body);
  return response;
}

http_response error_response(const api_error& error) {
  auto response = json_response(error_body(error));
  response.status = error.status;
  response.code = error.code;
  if (error.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  if (error.retry_after_ms > 0) {
    response.headers.emplace_back("Retry-After",
                                  fmt::to_string((error.retry_after_ms + 999) / 1000));
    response.headers.emplace_back("retry-after-ms", fmt::to_string(error.retry_after_ms));
  }
  return response;
}

void append_head(std::string& out, const http_response& response, const http_request& request,
                 body_framing framing, size_t body_bytes, bool keep_alive) {
  const auto add = [&](std::string_view name, std::string_view value) {
    fmt::format_to(std::back_inserter(out), "{}: {}\r\n", name, value);
  };
  fmt::format_to(std::back_inserter(out), "HTTP/1.1 {}\r\n", status_line(response));
  const auto now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  add("Date", fmt::format("{:%a, %d %b %Y %H:%M:%S GMT}", fmt::gmtime(now)));
  // 204 has neither a body nor anything to say about one.
  if (response.status != 204) {
    add("Content-Type", response.content_type);
    if (framing == body_framing::length) add("Content-Length", fmt::to_string(body_bytes));
    if (framing == body_framing::chunked) add("Transfer-Encoding", "chunked");
  }
  if (!request.request_id.empty()) add("x-request-id", request.request_id);
  for (const auto& [name, value] : response.headers) add(name, value);
  if (!keep_alive)
    add("Connection", "close");
  else if (!request.http_1_1)
    add("Connection", "keep-alive");
  out += "\r\n";
}

std::string canonical_path(std::string_view target) {
  target = origin_form(target);
  if (!target.starts_with('/')) return {};
  const auto decoded = percent_decoded(target.substr(0, target.find_first_of("?#")));
  if (!decoded) return {};
  std::string_view path = *decoded;
  if (path == "/v1" || path.starts_with("/v1/")) path.remove_prefix(3);
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  return path.empty() ? "/" : std::string(path);
}

bool valid_host(std::string_view host) {
  constexpr std::string_view punctuation = ".-_:[]";
  return !host.empty() && host.size() <= 255 && std::all_of(host.begin(), host.end(), [&](char c) {
    return is_alphanumeric(c) || punctuation.find(c) != std::string_view::npos;
  });
}

std::string request_id_for(std::string_view presented) {
  constexpr std::string_view punctuation = ".-_:/+=";
  const bool fit = !presented.empty() && presented.size() <= 128 &&
                   std::all_of(presented.begin(), presented.end(), [&](char c) {
                     return is_alphanumeric(c) || punctuation.find(c) != std::string_view::npos;
                   });
  return fit ? std::string(presented) : random_id("req-");
}

std::string random_id(std::string_view prefix) {
  // Ids must be unique, not secret.
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}{:016x}{:08x}", prefix, random(), random() & 0xFFFFFFFF);
}

}  // namespace troupe::http
