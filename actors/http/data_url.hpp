#pragma once

#include "actors/http/api_error.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <variant>

namespace troupe::http {

/// The bytes of a `data:` URL with base64 content. The media type is not looked at: callers judge
/// the bytes. Sizes are checked before anything is decoded. Any other kind of address is an error
/// that says what this server accepts.
std::variant<std::string, api_error> parse_data_url(std::string_view url, int64_t bytes_max);

}  // namespace troupe::http
