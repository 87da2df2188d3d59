#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace troupe::model {

/// The bytes that a token of tokenizer.json stands for. Byte-level vocabularies spell each byte as
/// one printable character: bytes 33-126, 161-172 and 174-255 as themselves, the other 68 as U+0100
/// and up, in order. Empty if `spelling` holds any other character. Source: Radford et al. 2019
/// (GPT-2).
std::optional<std::string> bytes_of_spelling(std::string_view spelling);

}  // namespace troupe::model
