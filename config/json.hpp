#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace troupe::config {

/// Text that is not the JSON we accept. The message gives the reason, after the place where that is
/// known ("line 3, column 7: "), never a library's own words.
class json_error : public std::runtime_error {
 public:
  explicit json_error(const std::string& reason, std::string field = {})
      : std::runtime_error(reason), field_(std::move(field)) {}

  /// Path of a well-formed value that cannot be held ("stop_token_ids[2]"); empty for other faults.
  const std::string& field() const noexcept { return field_; }

 private:
  std::string field_;
};

/// A parsed JSON value. Immutable, cheap to copy (shares the document). Depth is at most 64, text
/// is valid UTF-8 without lone surrogates, object keys are unique, numbers are finite: anything
/// else was refused while parsing. Integers from -2^63 to 2^64 - 1 are exact; a number with a
/// fraction is never an integer.
class json_value {
 public:
  enum class kind : uint8_t { null, boolean, integer, real, string, array, object };

  kind type() const;
  bool is_null() const { return type() == kind::null; }
  std::optional<bool> boolean() const;
  std::optional<int64_t> integer() const;  // also 3.0: reals with an integral value convert; none
                                           // above 2^63 - 1
  std::optional<double> number() const;
  std::optional<std::string_view> string() const;  // valid while any copy of the document lives

  /// Members in file order; empty for anything but an object.
  std::vector<std::pair<std::string_view, json_value>> members() const;
  /// Elements; empty for anything but an array.
  std::vector<json_value> elements() const;
  /// The member `key`, if this is an object that has it with a value other than null.
  std::optional<json_value> find(std::string_view key) const;

  /// Serialised as Python's json.dumps(ensure_ascii=False) would: ", " and ": " between items, key
  /// order kept. Used by the chat template.
  std::string dump() const;

  struct document;
  json_value(std::shared_ptr<const document> owner, const void* node)
      : owner_(std::move(owner)), node_(node) {}

 private:
  std::shared_ptr<const document> owner_;
  const void* node_;
};

/// Parses one document, an object or an array. Throws json_error for syntax, depth over 64,
/// duplicate keys, numbers that are not finite or not 64-bit integers, invalid UTF-8 and trailing
/// text. Copies `text` once and its strings once more.
json_value parse_json(std::string_view text);

/// Appends `text` as a quoted JSON string. `text` must be valid UTF-8.
void append_json_string(std::string& out, std::string_view text);

}  // namespace troupe::config
