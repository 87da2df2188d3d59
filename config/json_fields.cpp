#include "config/json_fields.hpp"

#include "config/error.hpp"

#include <fmt/format.h>

#include <utility>

namespace troupe::config {

namespace {

std::string shown(const json_value& value) {
  constexpr size_t shown_bytes_max = 48;
  if (value.type() == json_value::kind::object) return "an object";
  if (value.type() == json_value::kind::array) return "a list";
  const auto text = value.dump();
  return text.size() > shown_bytes_max ? "a long string" : text;
}

template <class T>
std::string described(std::string_view what, range<T> bounds) {
  return fmt::format("{} from {} to {}", what, bounds.least, bounds.most);
}

template <class T>
bool inside(std::optional<T> value, range<T> bounds) {
  return value && *value >= bounds.least && *value <= bounds.most;
}

range<int64_t> widened(range<int32_t> bounds) {
  return {bounds.least, bounds.most};
}

}  // namespace

json_fields::json_fields(json_value object, std::string place, std::vector<std::string>& faults)
    : place_(std::move(place)), faults_(&faults) {
  if (object.type() == json_value::kind::object)
    object_ = std::move(object);
  else
    mismatch("the text", object, "an object");
}

bool json_fields::has(std::string_view key) const {
  return object_ && object_->find(key).has_value();
}

int64_t json_fields::integer(std::string_view key, range<int64_t> bounds) const {
  const auto expected = described("an integer", bounds);
  const auto value = find(key, expected);
  if (!value) return bounds.least;
  if (inside(value->integer(), bounds)) return *value->integer();
  mismatch(key, *value, expected);
  return bounds.least;
}

int32_t json_fields::size(std::string_view key, range<int32_t> bounds) const {
  return static_cast<int32_t>(integer(key, widened(bounds)));
}

double json_fields::number(std::string_view key, range<double> bounds) const {
  const auto expected = described("a number", bounds);
  const auto value = find(key, expected);
  if (!value) return bounds.least;
  if (inside(value->number(), bounds)) return *value->number();
  mismatch(key, *value, expected);
  return bounds.least;
}

std::vector<int32_t> json_fields::sizes(std::string_view key, range<int32_t> bounds) const {
  const auto expected = described("integers", bounds);
  const auto value = find(key, expected);
  if (!value) return {};
  const bool list = value->type() == json_value::kind::array;
  std::vector<int32_t> result;
  for (const auto& element : list ? value->elements() : std::vector{*value}) {
    if (inside(element.integer(), widened(bounds)))
      result.push_back(static_cast<int32_t>(*element.integer()));
    else
      mismatch(key, element, expected);
  }
  return result;
}

std::vector<double> json_fields::numbers(std::string_view key, size_t count,
                                         range<double> bounds) const {
  const auto expected = fmt::format("{} {}", count, described("numbers", bounds));
  std::vector<double> result(count, bounds.least);
  const auto value = find(key, expected);
  if (!value) return result;
  const auto elements = value->elements();
  if (elements.size() != count) {
    mismatch(key, *value, expected);
    return result;
  }
  for (size_t i = 0; i < count; ++i) {
    if (inside(elements[i].number(), bounds))
      result[i] = *elements[i].number();
    else
      mismatch(key, elements[i], expected);
  }
  return result;
}

bool json_fields::boolean(std::string_view key) const {
  constexpr auto expected = "true or false";
  const auto value = find(key, expected);
  if (!value) return false;
  if (!value->boolean()) mismatch(key, *value, expected);
  return value->boolean().value_or(false);
}

std::string json_fields::string(std::string_view key) const {
  constexpr auto expected = "a string";
  const auto value = find(key, expected);
  if (!value) return {};
  if (!value->string()) mismatch(key, *value, expected);
  return std::string(value->string().value_or(""));
}

json_fields json_fields::object(std::string_view key) const {
  json_fields result = *this;
  result.place_ = fmt::format("{}{}.", place_, key);
  result.object_ = find(key, "an object");
  if (result.object_ && result.object_->type() != json_value::kind::object) {
    mismatch(key, *result.object_, "an object");
    result.object_.reset();
  }
  return result;
}

void json_fields::expect_boolean(std::string_view key, bool only) const {
  if (!has(key)) return;
  const auto value = object_->find(key);
  if (value->boolean() != only) mismatch(key, *value, fmt::format("{}", only));
}

void json_fields::expect_number(std::string_view key, double only) const {
  if (!has(key)) return;
  const auto value = object_->find(key);
  if (value->number() != only) mismatch(key, *value, fmt::format("{}", only));
}

void json_fields::expect_string(std::string_view key, std::string_view only) const {
  if (!has(key)) return;
  const auto value = object_->find(key);
  if (value->string() != only) mismatch(key, *value, fmt::format("\"{}\"", only));
}

void json_fields::fail(std::string_view key, std::string_view text) const {
  if (object_) faults_->push_back(fmt::format("{}{}: {}", place_, key, text));
}

std::optional<json_value> json_fields::find(std::string_view key, std::string_view expected) const {
  if (!object_) return std::nullopt;
  auto value = object_->find(key);
  if (!value) fail(key, fmt::format("is missing, expected {}", expected));
  return value;
}

void json_fields::mismatch(std::string_view key, const json_value& found,
                           std::string_view expected) const {
  faults_->push_back(
      fmt::format("{}{}: found {}, expected {}", place_, key, shown(found), expected));
}

json_value parse_json_file(std::string_view text, const std::string& origin) {
  try {
    return parse_json(text);
  } catch (const json_error& fault) {
    throw error(fmt::format("{}: {}", origin, fault.what()));
  }
}

}  // namespace troupe::config
