#include "model/tokenizer/nfc.hpp"

#include "config/ensure.hpp"
#include "model/tokenizer/utf8.hpp"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <bitset>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

namespace troupe::model {
namespace {

constexpr int32_t code_point_count = 0x110000;
// No canonical decomposition in Unicode has more than four code points; Hangul has three.
constexpr size_t decomposition_max = 4;
// Hangul jamo that join the syllable before them. Their composition is arithmetic, not a table.
constexpr int32_t hangul_vowel_first = 0x1161, hangul_vowel_last = 0x1175;
constexpr int32_t hangul_trail_first = 0x11A8, hangul_trail_last = 0x11C2;
// Nothing below the combining marks block takes part in a composition as its second character, and
// nothing below it decomposes for good.
constexpr int32_t always_stable_below = 0x300;

using code_points = std::vector<utf8proc_int32_t>;

int combining_class(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

void append_decomposition(code_points& out, int32_t code_point) {
  std::array<utf8proc_int32_t, decomposition_max> parts{};
  int last_boundclass = 0;
  const auto count = utf8proc_decompose_char(code_point, parts.data(), parts.size(),
                                             UTF8PROC_DECOMPOSE, &last_boundclass);
  config::ensure(count > 0 && count <= static_cast<utf8proc_ssize_t>(parts.size()),
                 "U+{:04X} decomposes into {} code points, expected 1 to {}", code_point, count,
                 parts.size());
  out.insert(out.end(), parts.begin(), parts.begin() + count);
}

/// Sorts by combining class, keeping the order within a class: one pass to count, one to place.
void sort_by_class(std::span<utf8proc_int32_t> marks) {
  std::array<size_t, 257> ends{};  // of class c, where its next mark goes
  for (const auto mark : marks) ++ends[static_cast<size_t>(combining_class(mark)) + 1];
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  const code_points unsorted(marks.begin(), marks.end());
  for (const auto mark : unsorted) marks[ends[static_cast<size_t>(combining_class(mark))]++] = mark;
}

/// Puts each run of combining marks into the order of their classes. utf8proc does this itself by
/// exchanging neighbours, which is quadratic in the length of a run.
void order_marks(code_points& text) {
  const auto before = [](utf8proc_int32_t left, utf8proc_int32_t right) {
    return combining_class(left) < combining_class(right);
  };
  const auto is_starter = [](utf8proc_int32_t mark) { return combining_class(mark) == 0; };
  for (auto first = text.begin(); first != text.end();) {
    const auto last = std::find_if(first, text.end(), is_starter);
    if (!std::is_sorted(first, last, before)) sort_by_class({first, last});
    first = std::find_if_not(last, text.end(), is_starter);
  }
}

void compose(code_points& text) {
  const auto size =
      utf8proc_normalize_utf32(text.data(), static_cast<utf8proc_ssize_t>(text.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  config::ensure(size >= 0, "utf8proc_normalize_utf32 failed with {}", size);
  text.resize(static_cast<size_t>(size));
}

/// The code points before which a text may be cut without changing its normal form, and which are
/// their own normal form: class 0, unchanged by NFC alone, never the second part of a composition.
class stable_starters {
 public:
  static const stable_starters& instance() {
    static const auto table = std::make_unique<const stable_starters>();
    return *table;
  }

  stable_starters() {
    stable_.set();
    for (int32_t code_point = always_stable_below; code_point < code_point_count; ++code_point)
      examine(code_point);
    for (int32_t jamo = hangul_vowel_first; jamo <= hangul_vowel_last; ++jamo) reject(jamo);
    for (int32_t jamo = hangul_trail_first; jamo <= hangul_trail_last; ++jamo) reject(jamo);
    // The Latin letters with marks: they stand for themselves, but their marks compose.
    for (int32_t code_point = 0; code_point < always_stable_below; ++code_point)
      reject_second_part(code_point);
  }

  bool contains(int32_t code_point) const { return stable_[static_cast<size_t>(code_point)]; }

 private:
  void reject(int32_t code_point) { stable_.reset(static_cast<size_t>(code_point)); }

  void examine(int32_t code_point) {
    const auto* property = utf8proc_get_property(code_point);
    if (property->combining_class != 0) reject(code_point);
    const bool decomposes = property->decomp_seqindex != UINT16_MAX && property->decomp_type == 0;
    if (!decomposes) return;
    code_points alone;
    append_decomposition(alone, code_point);
    order_marks(alone);
    compose(alone);
    if (alone != code_points{code_point}) reject(code_point);
    reject_second_part(code_point);
  }

  /// The full decomposition ends in what the last composition step added.
  void reject_second_part(int32_t code_point) {
    code_points parts;
    append_decomposition(parts, code_point);
    if (parts.size() > 1) reject(parts.back());
  }

  std::bitset<code_point_count> stable_;
};

/// Appends the normal form of a stretch that starts at a cut and holds no other.
void append_normalized(std::string& out, std::string_view stretch, code_points& scratch) {
  scratch.clear();
  while (!stretch.empty()) {
    const utf8_character next = read_utf8(stretch);
    append_decomposition(scratch, next.code_point);
    stretch.remove_prefix(next.size);
  }
  order_marks(scratch);
  compose(scratch);
  for (const auto code_point : scratch) append_utf8(out, code_point);
}

}  // namespace

std::string normalize_nfc(std::string_view text) {
  const stable_starters& stable = stable_starters::instance();
  std::string out;
  out.reserve(text.size());
  code_points scratch;
  // text[..copied) is in `out`. The stretch that may change starts at the last stable starter.
  size_t copied = 0, starter = 0, at = 0;
  while (at < text.size()) {
    const size_t ascii = ascii_prefix(text.substr(at));
    if (ascii > 0) {
      at += ascii;
      starter = at - 1;
      continue;
    }
    utf8_character next = read_utf8(text.substr(at));
    if (stable.contains(next.code_point)) {
      starter = at;
      at += next.size;
      continue;
    }
    out.append(text.substr(copied, starter - copied));
    while (at < text.size()) {
      next = read_utf8(text.substr(at));
      if (stable.contains(next.code_point)) break;
      at += next.size;
    }
    append_normalized(out, text.substr(starter, at - starter), scratch);
    copied = starter = at;
  }
  out.append(text.substr(copied));
  return out;
}

}  // namespace troupe::model
