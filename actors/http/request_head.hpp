#pragma once

#include "actors/http/api_error.hpp"
#include "actors/http/http_message.hpp"

#include <boost/beast/http/fields.hpp>
#include <boost/beast/http/message.hpp>

#include <optional>
#include <variant>

namespace troupe::http {

/// Checks a parsed request head and takes from it what routes need. Errors for what is ambiguous
/// (two lengths, two keys, no host) or not offered (codings, expectations, versions). Never throws.
std::variant<http_request, api_error> read_head(const boost::beast::http::request_header<>& head);

/// What to answer when the head or body of a request cannot be parsed; nullopt if the client just
/// left.
std::optional<api_error> parse_fault(boost::system::error_code fault, int64_t max_body_bytes);

}  // namespace troupe::http
