#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace troupe::http {

/// Appends `bytes` as a quoted JSON string. What is not UTF-8 becomes U+FFFD, one per maximal
/// invalid part: text that a model made must never break a frame.
void append_text(std::string& out, std::string_view bytes);

/// Appends `bytes` as an array of numbers, `[104,105]`.
void append_byte_array(std::string& out, std::string_view bytes);

/// Appends a log-probability; -infinity and NaN, which JSON lacks, become -9999 as in OpenAI's API.
void append_logprob(std::string& out, float value);

/// The bytes of the first character of `text` if it is well formed, else 0.
size_t utf8_length(std::string_view text);

/// How many bytes at the front of `text` (not well formed at its front) make one maximal invalid
/// part.
size_t utf8_invalid_length(std::string_view text);

}  // namespace troupe::http
