#include "actors/http/object_reader.hpp"

#include <fmt/format.h>

#include <algorithm>

namespace troupe::http {

namespace {

using config::json_value;
using kind = json_value::kind;

std::string range_text(real_range range) {
  return fmt::format("{} {} to {}", range.open_low ? "above" : "from", range.low, range.high);
}

/// Whether the value asks for nothing: what clients send to say "off".
bool is_neutral(const json_value& value) {
  switch (value.type()) {
    case kind::null:
      return true;
    case kind::boolean:
      return !*value.boolean();
    case kind::integer:
    case kind::real:
      return value.number() == 0.0;
    case kind::string:
      return value.string()->empty();
    case kind::array:
      return value.elements().empty();
    case kind::object:
      return value.members().empty();
  }
  return false;
}

}  // namespace

std::string describe(const json_value& value) {
  switch (value.type()) {
    case kind::array:
      return "an array";
    case kind::object:
      return "an object";
    case kind::string:
      return excerpt(*value.string());
    default:
      return value.dump();
  }
}

void fail_at(std::string path, std::string message, std::string_view code, int32_t status) {
  auto error = make_error(status, code, std::move(message));
  error.param = std::move(path);
  throw request_fault(std::move(error));
}

int64_t checked_integer(const json_value& value, const std::string& path, integer_range range) {
  const auto number = value.integer();
  if (!number || *number < range.low || *number > range.high)
    fail_at(path, fmt::format("{} must be an integer from {} to {}, found {}", path, range.low,
                              range.high, describe(value)));
  return *number;
}

float checked_real(const json_value& value, const std::string& path, real_range range) {
  const auto number = value.number();
  // The sampler computes in float: the range holds after rounding to it.
  const auto rounded = static_cast<float>(number.value_or(0));
  const bool inside = number && *number >= range.low && *number <= range.high &&
                      (!range.open_low || rounded > static_cast<float>(range.low));
  if (!inside)
    fail_at(path, fmt::format("{} must be a number {}, found {}", path, range_text(range),
                              describe(value)));
  return rounded;
}

std::string_view checked_string(const json_value& value, const std::string& path) {
  const auto text = value.string();
  if (!text) fail_at(path, fmt::format("{} must be a string, found {}", path, describe(value)));
  return *text;
}

object_reader::object_reader(json_value value, std::string path)
    : value_(std::move(value)), path_(std::move(path)) {
  if (value_.type() == kind::object) return;
  fail_at(path_, fmt::format("{} must be an object, found {}",
                             path_.empty() ? "the request" : path_, describe(value_)));
}

std::string object_reader::path_of(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void object_reader::fail(std::string_view key, std::string message) const {
  fail_at(path_of(key), std::move(message));
}

std::optional<json_value> object_reader::value(std::string_view key) {
  known_.push_back(key);
  return value_.find(key);
}

std::optional<bool> object_reader::boolean(std::string_view key) {
  const auto found = value(key);
  if (!found) return std::nullopt;
  if (const auto flag = found->boolean()) return flag;
  fail(key, fmt::format("{} must be true or false, found {}", path_of(key), describe(*found)));
}

std::optional<int64_t> object_reader::integer(std::string_view key, integer_range range) {
  const auto found = value(key);
  if (!found) return std::nullopt;
  return checked_integer(*found, path_of(key), range);
}

std::optional<float> object_reader::real(std::string_view key, real_range range) {
  const auto found = value(key);
  if (!found) return std::nullopt;
  return checked_real(*found, path_of(key), range);
}

std::optional<std::string_view> object_reader::string(std::string_view key) {
  const auto found = value(key);
  if (!found) return std::nullopt;
  return checked_string(*found, path_of(key));
}

std::optional<std::vector<json_value>> object_reader::array(std::string_view key, size_t size_max) {
  const auto found = value(key);
  if (!found) return std::nullopt;
  if (found->type() != kind::array)
    fail(key, fmt::format("{} must be an array, found {}", path_of(key), describe(*found)));
  auto elements = found->elements();
  if (elements.size() > size_max)
    fail(key, fmt::format("{} has {} elements, at most {} are allowed", path_of(key),
                          elements.size(), size_max));
  return elements;
}

std::optional<object_reader> object_reader::object(std::string_view key) {
  const auto found = value(key);
  if (!found) return std::nullopt;
  return object_reader(*found, path_of(key));
}

std::string_view object_reader::required_string(std::string_view key) {
  if (const auto text = string(key)) return *text;
  fail(key, fmt::format("{} is missing, expected a string", path_of(key)));
}

void object_reader::tolerate(std::initializer_list<std::string_view> keys) {
  known_.insert(known_.end(), keys);
}

void object_reader::refuse(std::initializer_list<std::string_view> keys, std::string_view code) {
  for (const auto key : keys) {
    const auto found = value(key);
    if (found && !is_neutral(*found))
      fail_at(path_of(key), fmt::format("{} is not supported by this server", path_of(key)), code);
  }
}

std::vector<std::string> object_reader::unknown_keys() const {
  std::vector<std::string> unknown;
  for (const auto& [key, member] : value_.members())
    if (std::find(known_.begin(), known_.end(), key) == known_.end()) unknown.emplace_back(key);
  return unknown;
}

}  // namespace troupe::http
