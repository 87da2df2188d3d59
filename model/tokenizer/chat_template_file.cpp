#include "model/tokenizer/chat_template_file.hpp"

#include "config/error.hpp"
#include "config/json.hpp"

#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <string>

namespace troupe::model {
namespace {

std::optional<std::string> read_text(const std::filesystem::path& file) {
  std::ifstream stream(file, std::ios::binary);
  if (!stream) return std::nullopt;
  return std::string(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
}

std::string template_of_json(const std::string& text, const std::filesystem::path& file) {
  try {
    if (const auto found = config::parse_json(text).find("chat_template"))
      if (const auto value = found->string()) return std::string(*value);
  } catch (const config::json_error& problem) {
    throw config::error(fmt::format("{}: {}", file.string(), problem.what()));
  }
  throw config::error(fmt::format("{}: no text under the key chat_template", file.string()));
}

}  // namespace

template_kind find_template_kind(const std::filesystem::path& folder) {
  auto text = read_text(folder / "chat_template.jinja");
  if (!text) {
    const auto file = folder / "chat_template.json";
    text = read_text(file);
    if (text) text = template_of_json(*text, file);
  }
  const bool thinking = text && text->find("reasoning_content") != std::string::npos;
  return thinking ? template_kind::thinking : template_kind::instruct;
}

}  // namespace troupe::model
