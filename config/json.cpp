#include "config/json.hpp"

#include <fmt/format.h>
#include <simdjson.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <variant>

namespace troupe::config {

namespace {

// Deeper text is refused while parsing, so that every walk over a value may recurse.
constexpr int32_t depth_max = 64;

struct json_node;
using json_array = std::vector<json_node>;
using json_object = std::vector<std::pair<std::string_view, json_node>>;

/// One parsed value. Unsigned integers are those above the signed range only.
struct json_node {
  std::variant<std::monostate, bool, int64_t, uint64_t, double, std::string_view, json_array,
               json_object>
      value;
};

std::string place_of(std::string_view text, const char* location) {
  const auto before = text.substr(0, static_cast<size_t>(location - text.data()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const auto line_start = before.rfind('\n') + 1;  // npos + 1 is 0: the first line
  return fmt::format("line {}, column {}: ", line, before.size() - line_start + 1);
}

/// The first line that is not UTF-8: no character crosses a line break.
std::string place_of_invalid_utf8(std::string_view text) {
  size_t line_start = 0;
  for (int64_t line = 1; line_start <= text.size(); ++line) {
    const auto line_end = std::min(text.find('\n', line_start), text.size());
    if (!simdjson::validate_utf8(text.data() + line_start, line_end - line_start))
      return fmt::format("line {}: ", line);
    line_start = line_end + 1;
  }
  return {};
}

const char* reason_of(simdjson::error_code code) {
  switch (code) {
    case simdjson::EMPTY:
      return "no JSON found";
    case simdjson::CAPACITY:
      return "text is longer than 4 GiB";
    case simdjson::UTF8_ERROR:
      return "text is not valid UTF-8";
    case simdjson::UNCLOSED_STRING:
      return "a string is not closed";
    case simdjson::UNESCAPED_CHARS:
      return "a string holds a control character that must be escaped";
    case simdjson::STRING_ERROR:
      return "a string holds an invalid escape or a lone surrogate";
    case simdjson::NUMBER_ERROR:
    case simdjson::NUMBER_OUT_OF_RANGE:
      return "a number is malformed or out of range";
    case simdjson::INCORRECT_TYPE:
      return "expected true, false or null";
    case simdjson::INCOMPLETE_ARRAY_OR_OBJECT:
      return "the text does not end with the bracket that closes it";
    case simdjson::TRAILING_CONTENT:
      return "text after the end of the value";
    default:
      return "expected a value, a comma, a colon or a closing bracket";
  }
}

/// What a message shows of a key.
std::string shown_key(std::string_view key) {
  constexpr size_t shown_bytes_max = 64;
  return key.size() > shown_bytes_max ? "a long key" : std::string(key);
}

/// Whether a token that the library did not take is an integer all the same: then it is too large.
bool is_whole_number(std::string_view token) {
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (token.starts_with('-')) token.remove_prefix(1);
  const auto end = std::find_if_not(token.begin(), token.end(), digit);
  const bool only_space_follows = std::all_of(
      end, token.end(), [](char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; });
  return end != token.begin() && token.front() != '0' && only_space_follows;
}

/// Builds nodes in one pass over the text and checks what the library does not: depth and unique
/// keys. The library reports its own faults as simdjson_error.
class tree_builder {
 public:
  tree_builder(std::string_view text, simdjson::ondemand::document& source)
      : text_(text), source_(source) {}

  json_node build() {
    auto root = read_root();
    if (const char* rest = nullptr; !source_.current_location().get(rest))
      fail("text after the end of the value");
    return root;
  }

  /// Where the last started value begins, or where reading stopped.
  std::string place() {
    const char* location = last_value_;
    if (const char* stopped = nullptr; !source_.current_location().get(stopped)) location = stopped;
    const char* text_end = text_.data() + text_.size();
    return place_of(text_, location == nullptr ? text_end : std::min(location, text_end));
  }

 private:
  [[noreturn]] void fail(const std::string& reason) { throw json_error(place() + reason); }

  /// Scalars at the root are refused: version 3.0 of the library accepts `falsea` there.
  json_node read_root() {
    last_value_ = source_.current_location();
    switch (simdjson::ondemand::json_type type = source_.type(); type) {
      case simdjson::ondemand::json_type::object:
        return {read_object(source_.get_object(), 1)};
      case simdjson::ondemand::json_type::array:
        return {read_array(source_.get_array(), 1)};
      default:
        fail("expected an object or an array");
    }
  }

  json_node read(simdjson::ondemand::value source, int32_t depth) {
    using kind = simdjson::ondemand::json_type;
    last_value_ = source_.current_location();
    switch (kind type = source.type(); type) {
      case kind::object:
        return {read_object(source.get_object(), depth + 1)};
      case kind::array:
        return {read_array(source.get_array(), depth + 1)};
      case kind::string:
        return {std::string_view(source.get_string())};
      case kind::number:
        return read_number(source);
      case kind::boolean:
        return {bool(source.get_bool())};
      case kind::null:
        break;
    }
    if (!bool(source.is_null())) throw simdjson::simdjson_error(simdjson::INCORRECT_TYPE);
    return {};
  }

  /// Not the library's get_number(): version 3.0 reads 123456789012345680.0 as 0 there.
  json_node read_number(simdjson::ondemand::value source) {
    if (!bool(source.is_integer())) return {double(source.get_double())};
    if (int64_t value = 0; !source.get_int64().get(value)) return {value};
    if (uint64_t value = 0; !source.get_uint64().get(value)) return {value};
    if (!is_whole_number(source.raw_json_token()))
      throw simdjson::simdjson_error(simdjson::NUMBER_ERROR);
    const auto field = path();
    throw json_error(
        fmt::format("{}{} is an integer of more than 64 bits, expected at most 64", place(), field),
        field);
  }

  /// Where the value lies that is being read.
  std::string path() const {
    std::string text;
    for (const auto& step : path_) {
      if (step.index >= 0)
        text += fmt::format("[{}]", step.index);
      else
        text += (text.empty() ? "" : ".") + shown_key(step.key);
    }
    return text;
  }

  json_array read_array(simdjson::ondemand::array source, int32_t depth) {
    check_depth(depth);
    json_array elements;
    path_.push_back({{}, -1});
    for (auto element : source) {
      ++path_.back().index;
      elements.push_back(read(element.value(), depth));
    }
    path_.pop_back();
    return elements;
  }

  json_object read_object(simdjson::ondemand::object source, int32_t depth) {
    check_depth(depth);
    json_object members;
    path_.push_back({{}, -1});
    for (auto field : source) {
      const std::string_view key = path_.back().key = field.unescaped_key();
      members.emplace_back(key, read(field.value(), depth));
    }
    path_.pop_back();
    check_unique(members);
    return members;
  }

  void check_depth(int32_t depth) {
    if (depth > depth_max) fail(fmt::format("nested deeper than {} levels", depth_max));
  }

  void check_unique(const json_object& members) {
    std::vector<std::string_view> keys;
    keys.reserve(members.size());
    for (const auto& [key, value] : members) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice == keys.end()) return;
    std::string shown;
    append_json_string(shown, shown_key(*twice));
    fail(fmt::format("an object has {} twice", shown));
  }

  /// One step from a container to the value that is being read: a key, or an index from 0.
  struct path_step {
    std::string_view key;
    int64_t index = -1;
  };

  std::string_view text_;
  simdjson::ondemand::document& source_;
  const char* last_value_ = nullptr;
  std::vector<path_step> path_;  // after a fault: where it was met
};

/// As Python's repr: the shortest digits that read back the same, always with a point or exponent.
void append_real(std::string& out, double value) {
  const auto digits = fmt::format("{}", value);
  out += digits;
  if (digits.find_first_of(".e") == std::string::npos) out += ".0";
}

void append_node(std::string& out, const json_node& node);

void append_items(std::string& out, char open, const auto& items, char close,
                  const auto& append_item) {
  out += open;
  bool first = true;
  for (const auto& item : items) {
    if (!first) out += ", ";
    first = false;
    append_item(item);
  }
  out += close;
}

struct node_writer {
  std::string& out;

  void operator()(std::monostate) const { out += "null"; }
  void operator()(bool value) const { out += value ? "true" : "false"; }
  void operator()(int64_t value) const { out += std::to_string(value); }
  void operator()(uint64_t value) const { out += std::to_string(value); }
  void operator()(double value) const { append_real(out, value); }
  void operator()(std::string_view value) const { append_json_string(out, value); }
  void operator()(const json_array& elements) const {
    append_items(out, '[', elements, ']', [this](const auto& node) { append_node(out, node); });
  }
  void operator()(const json_object& members) const {
    append_items(out, '{', members, '}', [this](const auto& member) {
      append_json_string(out, member.first);
      out += ": ";
      append_node(out, member.second);
    });
  }
};

void append_node(std::string& out, const json_node& node) {
  std::visit(node_writer{out}, node.value);
}

const json_node& node_at(const void* node) {
  return *static_cast<const json_node*>(node);
}

template <class T>
const T* get_if(const void* node) {
  return std::get_if<T>(&node_at(node).value);
}

}  // namespace

/// The parser owns the unescaped strings that the nodes point to.
struct json_value::document {
  simdjson::ondemand::parser parser;
  json_node root;
};

json_value::kind json_value::type() const {
  // In the order of json_node's alternatives.
  constexpr kind kinds[] = {kind::null, kind::boolean, kind::integer, kind::integer,
                            kind::real, kind::string,  kind::array,   kind::object};
  static_assert(std::size(kinds) == std::variant_size_v<decltype(json_node::value)>);
  return kinds[node_at(node_).value.index()];
}

std::optional<bool> json_value::boolean() const {
  const auto* value = get_if<bool>(node_);
  return value ? std::optional(*value) : std::nullopt;
}

std::optional<int64_t> json_value::integer() const {
  if (const auto* value = get_if<int64_t>(node_)) return *value;
  const auto* real = get_if<double>(node_);
  constexpr double limit = 0x1p63;  // the first real above the range
  if (!real || *real != std::floor(*real) || *real < -limit || *real >= limit) return std::nullopt;
  return static_cast<int64_t>(*real);
}

std::optional<double> json_value::number() const {
  if (const auto* value = get_if<double>(node_)) return *value;
  if (const auto* value = get_if<int64_t>(node_)) return static_cast<double>(*value);
  if (const auto* value = get_if<uint64_t>(node_)) return static_cast<double>(*value);
  return std::nullopt;
}

std::optional<std::string_view> json_value::string() const {
  const auto* value = get_if<std::string_view>(node_);
  return value ? std::optional(*value) : std::nullopt;
}

std::vector<std::pair<std::string_view, json_value>> json_value::members() const {
  std::vector<std::pair<std::string_view, json_value>> result;
  if (const auto* members = get_if<json_object>(node_)) {
    result.reserve(members->size());
    for (const auto& [key, node] : *members) result.emplace_back(key, json_value(owner_, &node));
  }
  return result;
}

std::vector<json_value> json_value::elements() const {
  std::vector<json_value> result;
  if (const auto* elements = get_if<json_array>(node_)) {
    result.reserve(elements->size());
    for (const auto& node : *elements) result.emplace_back(owner_, &node);
  }
  return result;
}

std::optional<json_value> json_value::find(std::string_view key) const {
  const auto* members = get_if<json_object>(node_);
  if (!members) return std::nullopt;
  for (const auto& [name, node] : *members)
    if (name == key && node.value.index() != 0) return json_value(owner_, &node);
  return std::nullopt;
}

std::string json_value::dump() const {
  std::string out;
  append_node(out, node_at(node_));
  return out;
}

json_value parse_json(std::string_view text) {
  const auto owner = std::make_shared<json_value::document>();
  const simdjson::padded_string padded(text);
  simdjson::ondemand::document source;
  if (const auto code = owner->parser.iterate(padded).get(source)) {
    const auto place = code == simdjson::UTF8_ERROR ? place_of_invalid_utf8(text) : std::string();
    throw json_error(place + reason_of(code));
  }
  tree_builder builder(padded, source);
  try {
    owner->root = builder.build();
  } catch (const simdjson::simdjson_error& fault) {
    throw json_error(builder.place() + reason_of(fault.error()));
  }
  return {owner, &owner->root};
}

void append_json_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20)
          fmt::format_to(std::back_inserter(out), "\\u{:04x}", c);
        else
          out += c;
    }
  }
  out += '"';
}

}  // namespace troupe::config
