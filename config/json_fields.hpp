#pragma once

#include "config/json.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::config {

/// Inclusive bounds of a field.
template <class T>
struct range {
  T least;
  T most;
};

/// The fields of one JSON object, read by name and checked against their type and range. Faults are
/// collected, not thrown, so that a file's faults are all found at once; a faulty field reads as
/// the lower bound, a faulty object as one whose fields are all skipped.
class json_fields {
 public:
  /// `place` starts every message ("config.json: text_config."); `faults` outlives this.
  json_fields(json_value object, std::string place, std::vector<std::string>& faults);

  bool has(std::string_view key) const;

  int64_t integer(std::string_view key, range<int64_t> bounds) const;
  int32_t size(std::string_view key, range<int32_t> bounds) const;
  double number(std::string_view key, range<double> bounds) const;
  /// A list of integers, or one integer alone.
  std::vector<int32_t> sizes(std::string_view key, range<int32_t> bounds) const;
  std::vector<double> numbers(std::string_view key, size_t count, range<double> bounds) const;
  bool boolean(std::string_view key) const;
  std::string string(std::string_view key) const;
  json_fields object(std::string_view key) const;

  /// A field we cannot honour: if it is there, it must be this.
  void expect_boolean(std::string_view key, bool only) const;
  void expect_number(std::string_view key, double only) const;
  void expect_string(std::string_view key, std::string_view only) const;

  /// Adds a fault of the field `key`.
  void fail(std::string_view key, std::string_view text) const;

 private:
  std::optional<json_value> find(std::string_view key, std::string_view expected) const;
  void mismatch(std::string_view key, const json_value& found, std::string_view expected) const;

  std::optional<json_value> object_;  // empty: already reported, every field is skipped
  std::string place_;
  std::vector<std::string>* faults_;
};

/// `parse_json` for a file: throws config::error that starts with `origin`.
json_value parse_json_file(std::string_view text, const std::string& origin);

}  // namespace troupe::config
