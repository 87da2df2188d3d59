#pragma once

#include "actors/http/api_error.hpp"
#include "config/json.hpp"

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::http {

/// A closed range of integers.
struct integer_range {
  int64_t low = 0;
  int64_t high = 0;
};

/// A range of reals; `open_low` excludes its lower end.
struct real_range {
  double low = 0;
  double high = 0;
  bool open_low = false;
};

/// One JSON object of a request, read field by field. Null means absent. A field of the wrong type
/// or outside its range throws request_fault with the field's path. Remembers which names were
/// asked for, so that what remains can be reported.
class object_reader {
 public:
  /// `path` is empty for the request itself. Throws request_fault if `value` is no object.
  object_reader(config::json_value value, std::string path);

  std::optional<config::json_value> value(std::string_view key);
  std::optional<bool> boolean(std::string_view key);
  std::optional<int64_t> integer(std::string_view key, integer_range range);
  std::optional<float> real(std::string_view key, real_range range);
  std::optional<std::string_view> string(std::string_view key);
  std::optional<std::vector<config::json_value>> array(std::string_view key, size_t size_max);
  std::optional<object_reader> object(std::string_view key);

  /// As above, but absence is a fault.
  std::string_view required_string(std::string_view key);

  /// Names that are known and have no effect.
  void tolerate(std::initializer_list<std::string_view> keys);
  /// Names whose effect this server lacks: any value but null, false, 0 or an empty one is a fault.
  void refuse(std::initializer_list<std::string_view> keys, std::string_view code);

  /// Members nobody asked for.
  std::vector<std::string> unknown_keys() const;
  const std::vector<std::string_view>& known_keys() const { return known_; }

  std::string path_of(std::string_view key) const;
  [[noreturn]] void fail(std::string_view key, std::string message) const;

 private:
  config::json_value value_;
  std::string path_;
  std::vector<std::string_view> known_;
};

/// What `value` is, for a message: scalars as written, cut short; others by kind.
std::string describe(const config::json_value& value);

[[noreturn]] void fail_at(std::string path, std::string message,
                          std::string_view code = "invalid_value", int32_t status = 400);

/// `value` as an integer in `range`; throws request_fault at `path`.
int64_t checked_integer(const config::json_value& value, const std::string& path,
                        integer_range range);
float checked_real(const config::json_value& value, const std::string& path, real_range range);
std::string_view checked_string(const config::json_value& value, const std::string& path);

}  // namespace troupe::http
