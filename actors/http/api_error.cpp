#include "actors/http/api_error.hpp"

#include "actors/http/json_text.hpp"

#include <fmt/format.h>

namespace troupe::http {

std::string_view error_type(int32_t status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 408:
      return "timeout_error";
    case 429:
      return "rate_limit_error";
    case 503:
      return "unavailable_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

api_error make_error(int32_t status, std::string_view code, std::string message) {
  api_error error;
  error.status = status;
  error.type = error_type(status);
  error.code = code;
  error.message = std::move(message);
  return error;
}

void append_error(std::string& out, const api_error& error) {
  out += R"("error":{"message":)";
  append_text(out, error.message);
  out += R"(,"type":)";
  append_text(out, error.type);
  out += R"(,"param":)";
  if (error.param.empty())
    out += "null";
  else
    append_text(out, error.param);
  out += R"(,"code":)";
  append_text(out, error.code);
  out += '}';
}

std::string error_body(const api_error& error) {
  std::string body = "{";
  append_error(body, error);
  if (error.progress) {
    body += R"(,"phase":)";
    append_text(body, error.progress->phase);
    body += fmt::format(R"(,"percent":{:.1f})", error.progress->percent);
    if (error.progress->eta_seconds)
      body += fmt::format(R"(,"eta_s":{})", *error.progress->eta_seconds);
  }
  body += '}';
  return body;
}

std::string excerpt(std::string_view text) {
  constexpr size_t shown_max = 64;
  if (text.size() <= shown_max) return fmt::format("\"{}\"", text);
  // Cut before a character, not inside it.
  size_t end = shown_max;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return fmt::format("\"{}…\"", text.substr(0, end));
}

}  // namespace troupe::http
