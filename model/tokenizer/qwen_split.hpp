#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace troupe::model {

/// The pattern that `first_piece` follows, as tokenizer.json spells it.
inline constexpr std::string_view qwen_split_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|)"
    R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";

/// Bytes of the first piece that the Qwen pre-tokenizer cuts from `text` (valid UTF-8, not empty).
///
/// Follows `qwen_split_pattern` with Unicode-wide case folding, general categories and White_Space,
/// but without backtracking: cutting a whole text piece by piece reads each byte at most three
/// times.
size_t first_piece(std::string_view text);

/// All pieces in order; they cover `text` without gaps.
std::vector<std::string_view> qwen_split(std::string_view text);

}  // namespace troupe::model
