#include "actors/http/request_head.hpp"

#include <fmt/format.h>
#include <boost/asio/error.hpp>
#include <boost/beast/http/error.hpp>

#include <string_view>

namespace troupe::http {

namespace {

namespace beast_http = boost::beast::http;
using field = beast_http::field;
using head_fields = beast_http::request_header<>;

std::string_view value_of(const head_fields& head, field name) {
  const auto value = head[name];
  return {value.data(), value.size()};
}

bool equals_ignoring_case(std::string_view a, std::string_view b) {
  return boost::beast::iequals({a.data(), a.size()}, {b.data(), b.size()});
}

api_error malformed(std::string message) {
  return make_error(400, "invalid_request", std::move(message));
}

/// Fields that may come once: a second one is read differently by every proxy on the way.
std::optional<api_error> check_single_fields(const head_fields& head) {
  for (const auto name : {field::host, field::authorization, field::content_length,
                          field::transfer_encoding, field::content_type, field::expect})
    if (head.count(name) > 1) {
      const auto text = beast_http::to_string(name);
      return malformed(fmt::format("the header {} comes {} times, expected once",
                                   std::string_view(text.data(), text.size()), head.count(name)));
    }
  return std::nullopt;
}

std::optional<api_error> check_host(const head_fields& head) {
  const auto host = value_of(head, field::host);
  if (head.version() >= 11 && !valid_host(host))
    return make_error(
        400, "invalid_host",
        fmt::format("found the Host {}, expected a name and perhaps a port", excerpt(host)));
  return std::nullopt;
}

std::optional<api_error> check_framing(const head_fields& head) {
  const auto coding = value_of(head, field::transfer_encoding);
  if (!coding.empty() && head.count(field::content_length) > 0)
    return malformed("the request has both Content-Length and Transfer-Encoding");
  if (!coding.empty() && !equals_ignoring_case(coding, "chunked"))
    return malformed(
        fmt::format("found the Transfer-Encoding {}, expected chunked", excerpt(coding)));
  const auto content = value_of(head, field::content_encoding);
  if (!content.empty() && !equals_ignoring_case(content, "identity"))
    return make_error(
        415, "unsupported_encoding",
        fmt::format("found the Content-Encoding {}, expected none", excerpt(content)));
  return std::nullopt;
}

std::optional<api_error> check_expectation(const head_fields& head) {
  const auto expect = value_of(head, field::expect);
  if (expect.empty() || equals_ignoring_case(expect, "100-continue")) return std::nullopt;
  return make_error(417, "unsupported_expectation",
                    fmt::format("found the Expect {}, expected 100-continue", excerpt(expect)));
}

}  // namespace

std::variant<http_request, api_error> read_head(const head_fields& head) {
  if (head.version() != 10 && head.version() != 11)
    return make_error(505, "unsupported_version", "expected HTTP/1.0 or HTTP/1.1");
  for (const auto check : {check_single_fields, check_host, check_framing, check_expectation})
    if (auto fault = check(head)) return std::move(*fault);
  http_request request;
  request.http_1_1 = head.version() == 11;
  const auto method = head.method_string();
  request.method.assign(method.data(), method.size());
  const auto target = head.target();
  const std::string_view target_text(target.data(), target.size());
  request.path = target_text == "*" ? "*" : canonical_path(target_text);
  if (request.path.empty())
    return malformed(fmt::format("found the target {}, expected a path", excerpt(target_text)));
  const auto presented = head["x-request-id"];
  request.request_id = request_id_for({presented.data(), presented.size()});
  request.authorization = value_of(head, field::authorization);
  request.expects_continue = request.http_1_1 && !value_of(head, field::expect).empty();
  const auto connection = value_of(head, field::connection);
  request.keep_alive = request.http_1_1 ? !equals_ignoring_case(connection, "close")
                                        : equals_ignoring_case(connection, "keep-alive");
  return request;
}

std::optional<api_error> parse_fault(boost::system::error_code fault, int64_t max_body_bytes) {
  using beast_http::error;
  if (fault == error::header_limit || fault == error::buffer_overflow)
    return make_error(431, "header_too_large", "the request's head is longer than 16384 bytes");
  if (fault == error::body_limit)
    return make_error(413, "request_too_large",
                      fmt::format("the request's body is longer than {} bytes", max_body_bytes));
  const bool left = fault == error::end_of_stream || fault == error::partial_message ||
                    fault.category() != make_error_code(error::bad_line_ending).category();
  if (left) return std::nullopt;
  return malformed("the request is not well-formed HTTP");
}

}  // namespace troupe::http
