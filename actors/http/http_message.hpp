#pragma once

#include "actors/http/api_error.hpp"

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::http {

/// A request as the routes see it: its head is checked, its target in canonical form.
struct http_request {
  std::string method;
  std::string path;        // decoded, without "/v1" and trailing slash; "/" at least
  std::string request_id;  // the client's, if it is fit to be echoed, else ours
  std::string authorization;
  bool http_1_1 = true;
  bool keep_alive = true;
  bool expects_continue = false;
  std::string body;
  std::chrono::steady_clock::time_point arrived;
};

/// A complete response. Headers that every response has are added when it is written.
struct http_response {
  int32_t status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::string code;  // of an error, for the reason phrase and the metrics
  std::vector<std::pair<std::string, std::string>> headers;
};

http_response json_response(std::string body);
http_response error_response(const api_error& error);

/// How the head of a response frames what follows.
enum class body_framing : uint8_t { length, chunked, until_close };

/// Appends status line and headers with the blank line that ends them. `body_bytes` is for framing
/// by length.
void append_head(std::string& out, const http_response& response, const http_request& request,
                 body_framing framing, size_t body_bytes, bool keep_alive);

/// The canonical path of a request target: origin or absolute form, percent-decoded, without query,
/// "/v1" in front and trailing slash. Empty if it is malformed.
std::string canonical_path(std::string_view target);

/// Whether `host` can be the value of a Host header: a name or address and perhaps a port.
bool valid_host(std::string_view host);

/// The client's id if it is short and harmless, else a new one.
std::string request_id_for(std::string_view presented);

/// `prefix` and 24 random hexadecimal digits.
std::string random_id(std::string_view prefix);

}  // namespace troupe::http
