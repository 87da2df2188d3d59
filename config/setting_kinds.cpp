#include "config/setting_kinds.hpp"

#include "config/json.hpp"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <limits>

namespace troupe::config {

namespace {

/// A number and what follows it. The number is not empty and not negative.
template <class Number>
struct measured {
  Number number;
  std::string_view unit;
};

template <class Number>
std::optional<measured<Number>> split_unit(std::string_view text) {
  measured<Number> result{};
  const auto* end = text.data() + text.size();
  const auto [rest, fault] = std::from_chars(text.data(), end, result.number);
  if (fault != std::errc() || text.front() == '-') return std::nullopt;
  result.unit = text.substr(static_cast<size_t>(rest - text.data()));
  while (result.unit.starts_with(' ')) result.unit.remove_prefix(1);
  return result;
}

std::optional<int64_t> count_unit(std::string_view unit) {
  if (unit.empty()) return 1;
  const auto rest = unit.substr(1);
  if (!rest.empty() && rest != "B" && rest != "iB" && rest != "i") return std::nullopt;
  switch (unit.front()) {
    case 'k':
    case 'K':
      return int64_t{1} << 10;
    case 'M':
      return int64_t{1} << 20;
    case 'G':
      return int64_t{1} << 30;
    default:
      return std::nullopt;
  }
}

std::optional<double> duration_unit_ms(std::string_view unit) {
  if (unit == "ms") return 1;
  if (unit.empty() || unit == "s") return 1e3;
  if (unit == "m" || unit == "min") return 60e3;
  if (unit == "h") return 3600e3;
  return std::nullopt;
}

std::optional<std::chrono::milliseconds> milliseconds_of(double value) {
  constexpr double longest = 1e15;  // far above any bound, far below the type's range
  if (!(value >= 0 && value <= longest)) return std::nullopt;
  return std::chrono::milliseconds(std::llround(value));
}

}  // namespace

std::optional<int64_t> parse_count(std::string_view text) {
  const auto parts = split_unit<int64_t>(text);
  const auto unit = parts ? count_unit(parts->unit) : std::nullopt;
  int64_t product = 0;
  if (!unit || __builtin_mul_overflow(parts->number, *unit, &product)) return std::nullopt;
  return product;
}

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  const auto parts = split_unit<double>(text);
  const auto unit = parts ? duration_unit_ms(parts->unit) : std::nullopt;
  return unit ? milliseconds_of(parts->number * *unit) : std::nullopt;
}

std::string show_duration(std::chrono::milliseconds value) {
  if (value.count() % 1000 != 0) return fmt::format("{}ms", value.count());
  return fmt::format("{}s", value.count() / 1000);
}

/// TOML's basic strings take the escapes of JSON, but not a bare DEL.
std::string toml_string(std::string_view text) {
  std::string json;
  append_json_string(json, text);
  std::string result;
  for (const char c : json) result += c == '\x7f' ? "\\u007f" : std::string(1, c);
  return result;
}

std::string toml_list(const std::vector<std::string>& texts) {
  std::string result;
  for (const auto& text : texts) result += (result.empty() ? "" : ", ") + toml_string(text);
  return "[" + result + "]";
}

std::optional<int64_t> read_count(const setting_value& value) {
  if (const auto* number = std::get_if<int64_t>(&value)) return *number;
  const auto* text = std::get_if<std::string>(&value);
  return text ? parse_count(*text) : std::nullopt;
}

std::optional<double> read_number(const setting_value& value) {
  if (const auto* number = std::get_if<double>(&value)) return *number;
  if (const auto* number = std::get_if<int64_t>(&value)) return static_cast<double>(*number);
  const auto* text = std::get_if<std::string>(&value);
  const auto parts = text ? split_unit<double>(*text) : std::nullopt;
  return parts && parts->unit.empty() ? std::optional(parts->number) : std::nullopt;
}

std::optional<bool> read_boolean(const setting_value& value) {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag;
  const auto* text = std::get_if<std::string>(&value);
  if (text && (*text == "true" || *text == "1")) return true;
  if (text && (*text == "false" || *text == "0")) return false;
  return std::nullopt;
}

std::optional<std::chrono::milliseconds> read_duration(const setting_value& value) {
  if (const auto* text = std::get_if<std::string>(&value)) return parse_duration(*text);
  constexpr double ms_per_second = 1e3;
  if (const auto* number = std::get_if<int64_t>(&value))
    return milliseconds_of(static_cast<double>(*number) * ms_per_second);
  const auto* number = std::get_if<double>(&value);
  return number ? milliseconds_of(*number * ms_per_second) : std::nullopt;
}

std::optional<std::string> read_text(const setting_value& value) {
  const auto* text = std::get_if<std::string>(&value);
  return text ? std::optional(*text) : std::nullopt;
}

std::optional<std::vector<std::string>> read_list(const setting_value& value) {
  if (const auto* list = std::get_if<std::vector<std::string>>(&value)) return *list;
  const auto* text = std::get_if<std::string>(&value);
  if (!text) return std::nullopt;
  std::vector<std::string> items;
  for (size_t begin = 0; begin <= text->size();) {
    const auto end = std::min(text->find(',', begin), text->size());
    items.push_back(text->substr(begin, end - begin));
    begin = end + 1;
  }
  return items;
}

std::string environment_name(const std::string& flag) {
  std::string name = "TROUPE_";
  for (const char c : flag.substr(flag.find_first_not_of('-')))
    name += std::isalnum(static_cast<unsigned char>(c))
                ? static_cast<char>(std::toupper(static_cast<unsigned char>(c)))
                : '_';
  return name;
}

}  // namespace troupe::config
