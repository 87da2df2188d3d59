#include "model/tokenizer/qwen_split.hpp"

#include "model/tokenizer/utf8.hpp"

#include <utf8proc.h>

#include <cstdint>
#include <optional>

namespace troupe::model {
namespace {

/// The only distinctions the pattern makes.
enum class character_class : uint8_t { letter, number, newline, blank, other };

/// White_Space without CR and LF. Source: Unicode, PropList.txt.
bool is_blank(int32_t code_point) {
  switch (code_point) {
    case '\t':
    case '\v':
    case '\f':
    case ' ':
    case 0x85:
    case 0xA0:
    case 0x1680:
    case 0x2028:
    case 0x2029:
    case 0x202F:
    case 0x205F:
    case 0x3000:
      return true;
    default:
      return code_point >= 0x2000 && code_point <= 0x200A;
  }
}

character_class classify(int32_t code_point) {
  if (code_point == '\r' || code_point == '\n') return character_class::newline;
  if (is_blank(code_point)) return character_class::blank;
  switch (utf8proc_category(code_point)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return character_class::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return character_class::number;
    default:
      return character_class::other;
  }
}

struct classified {
  size_t size = 0;
  character_class kind = character_class::other;

  bool is(character_class expected) const { return size > 0 && kind == expected; }
  bool is_space() const { return is(character_class::blank) || is(character_class::newline); }
};

/// The character at `offset`; size 0 at the end of `text`.
classified character_at(std::string_view text, size_t offset) {
  if (offset >= text.size()) return {};
  const utf8_character next = read_utf8(text.substr(offset));
  return {next.size, classify(next.code_point)};
}

/// End of the run of characters of class `kind` that starts at `offset`.
size_t run_end(std::string_view text, size_t offset, character_class kind) {
  for (classified next; (next = character_at(text, offset)).is(kind);) offset += next.size;
  return offset;
}

/// Folds the letters of the contractions to lower case, 0 for any other character. U+017F, the long
/// s, is the one character outside ASCII that folds to one of them.
char fold_contraction_letter(const utf8_character& character) {
  if (character.code_point == 0x17F) return 's';
  if (character.code_point >= 0x80) return 0;
  return static_cast<char>(character.code_point | 0x20);
}

/// (?i:'s|'t|'re|'ve|'m|'ll|'d)
std::optional<size_t> contraction(std::string_view text) {
  if (text.size() < 2 || text[0] != '\'') return std::nullopt;
  const utf8_character first = read_utf8(text.substr(1));
  const size_t first_end = 1 + first.size;
  switch (fold_contraction_letter(first)) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return first_end;
    case 'r':
    case 'v':
      if (first_end < text.size() && (text[first_end] | 0x20) == 'e') return first_end + 1;
      return std::nullopt;
    case 'l':
      if (first_end < text.size() && (text[first_end] | 0x20) == 'l') return first_end + 1;
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

/// [^\r\n\p{L}\p{N}]?\p{L}+
std::optional<size_t> word(std::string_view text, classified first) {
  using enum character_class;
  if (first.is(letter)) return run_end(text, first.size, letter);
  if (first.is(newline) || first.is(number)) return std::nullopt;
  if (!character_at(text, first.size).is(letter)) return std::nullopt;
  return run_end(text, first.size, letter);
}

/// ` ?[^\s\p{L}\p{N}]+[\r\n]*`
std::optional<size_t> punctuation(std::string_view text, classified first) {
  using enum character_class;
  const size_t start = text[0] == ' ' ? first.size : 0;
  const size_t end = run_end(text, start, other);
  if (end == start) return std::nullopt;
  return run_end(text, end, newline);
}

/// \s*[\r\n]+|\s+(?!\S)|\s+ at the start of a run of White_Space: up to its last newline; without
/// one, all of a run that ends the text; else all but its last character, which stays for the word
/// behind it; else that one character.
size_t space(std::string_view text) {
  size_t end = 0, last_start = 0, after_newline = 0;
  for (classified next; (next = character_at(text, end)).is_space();) {
    last_start = end;
    end += next.size;
    if (next.is(character_class::newline)) after_newline = end;
  }
  if (after_newline > 0) return after_newline;
  return end == text.size() || last_start == 0 ? end : last_start;
}

}  // namespace

size_t first_piece(std::string_view text) {
  if (const auto end = contraction(text)) return *end;
  const classified first = character_at(text, 0);
  if (const auto end = word(text, first)) return *end;
  if (first.is(character_class::number)) return first.size;
  if (const auto end = punctuation(text, first)) return *end;
  return space(text);
}

std::vector<std::string_view> qwen_split(std::string_view text) {
  std::vector<std::string_view> pieces;
  while (!text.empty()) {
    const size_t size = first_piece(text);
    pieces.push_back(text.substr(0, size));
    text.remove_prefix(size);
  }
  return pieces;
}

}  // namespace troupe::model
