#include "support/reference_set.hpp"

#include "config/ensure.hpp"
#include "config/json.hpp"

#include <cstring>
#include <fstream>
#include <iterator>

namespace troupe::testing {
namespace {

using config::json_value;

std::vector<int32_t> integers(const json_value& list) {
  std::vector<int32_t> values;
  for (const auto& element : list.elements())
    values.push_back(static_cast<int32_t>(element.integer().value()));
  return values;
}

std::vector<std::string> strings(const json_value& list) {
  std::vector<std::string> values;
  for (const auto& element : list.elements()) values.emplace_back(element.string().value());
  return values;
}

reference_case parse_case(const json_value& json) {
  reference_case result;
  result.name = json.find("name").value().string().value();
  for (const auto& message : json.find("messages").value().elements()) {
    const auto parts = strings(message);
    result.messages.emplace_back(parts.at(0), parts.at(1));
  }
  result.images = strings(json.find("images").value());
  if (const auto video = json.find("video"))
    result.video = reference_video{strings(video->find("frames").value()),
                                   video->find("fps").value().number().value()};
  result.prompt_ids = integers(json.find("prompt_ids").value());
  result.generated_ids = integers(json.find("generated_ids").value());
  result.generated_text = json.find("generated_text").value().string().value();
  if (const auto axes = json.find("position_ids"))
    for (const auto& axis : axes->elements()) result.position_ids.push_back(integers(axis));
  for (const auto& grid : json.find("grid_thw").value().elements()) {
    const auto thw = integers(grid);
    result.grid_thw.push_back({thw.at(0), thw.at(1), thw.at(2)});
  }
  return result;
}

/// Our own fixtures are trusted: the loader under test is not used to judge itself.
std::map<std::string, reference_tensor> parse_tensors(const std::string& file) {
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  const char* data = file.data() + sizeof header_bytes + header_bytes;
  std::map<std::string, reference_tensor> tensors;
  const auto header =
      config::parse_json(std::string_view(file).substr(sizeof header_bytes, header_bytes));
  for (const auto& [name, entry] : header.members()) {
    if (name == "__metadata__") continue;
    config::ensure(entry.find("dtype").value().string() == "F32", "{} is not F32", name);
    reference_tensor tensor;
    for (const auto& size : entry.find("shape").value().elements())
      tensor.shape.push_back(size.integer().value());
    const auto offsets = entry.find("data_offsets").value().elements();
    const auto begin = offsets.at(0).integer().value();
    const auto end = offsets.at(1).integer().value();
    tensor.values.resize(static_cast<size_t>(end - begin) / sizeof(float));
    std::memcpy(tensor.values.data(), data + begin, static_cast<size_t>(end - begin));
    tensors.emplace(name, std::move(tensor));
  }
  return tensors;
}

}  // namespace

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  config::ensure(stream.good(), "cannot read {}", path.string());
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::filesystem::path fixtures() {
  return TROUPE_FIXTURES;
}

reference_set::reference_set(const std::string& set_name) : name(set_name) {
  const auto json = read_file(fixtures() / name / "cases.json");
  for (const auto& element : config::parse_json(json).elements())
    cases.push_back(parse_case(element));
  tensors = parse_tensors(read_file(fixtures() / name / "tensors.safetensors"));
}

}  // namespace troupe::testing
