#include "actors/cli/checkpoint_writer.hpp"

#include "model/weights/random_weights.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>
#include <fstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace troupe::cli {
namespace {

constexpr uint64_t weights_seed = 3;
constexpr int64_t value_bytes = 2;  // bf16

int64_t bytes_of(const model::tensor_spec& tensor) {
  return tensor.rows() * tensor.columns() * value_bytes;
}

/// The two stacks that all experts of a layer lie in.
std::vector<model::tensor_spec> stacked_experts(const std::string& prefix,
                                                const config::text_config& text) {
  const int64_t experts = text.experts.num_experts, width = text.experts.moe_intermediate_size;
  return {{prefix + "gate_up_proj", {experts, text.hidden_size, 2 * width}, std::nullopt},
          {prefix + "down_proj", {experts, width, text.hidden_size}, std::nullopt}};
}

std::vector<model::tensor_spec> released_tensors(const config::model_config& model) {
  std::vector<model::tensor_spec> tensors;
  std::string stacked;  // the layer whose experts are there already
  for (auto& tensor : model::checkpoint_tensors(model)) {
    if (!tensor.expert) {
      tensors.push_back(std::move(tensor));
    } else if (tensor.expert->experts != stacked) {
      stacked = tensor.expert->experts;
      for (auto& stack : stacked_experts(stacked, model.text)) tensors.push_back(std::move(stack));
    }
  }
  return tensors;
}

/// Padded with spaces, so that the data begins at a multiple of its values' size.
std::string header_of(const std::vector<model::tensor_spec>& tensors) {
  std::string header = "{";
  int64_t offset = 0;
  for (const auto& tensor : tensors) {
    const int64_t end = offset + bytes_of(tensor);
    header +=
        fmt::format(R"({}"{}":{{"dtype":"BF16","shape":[{}],"data_offsets":[{},{}]}})",
                    offset == 0 ? "" : ",", tensor.name, fmt::join(tensor.shape, ","), offset, end);
    offset = end;
  }
  header += "}";
  constexpr size_t alignment = 8;
  header.resize((header.size() + alignment - 1) / alignment * alignment, ' ');
  return header;
}

/// One expert, or any other slice of the first dimension, at a time: what is written is freed at
/// once.
void write_values(std::ofstream& file, const model::tensor_spec& tensor) {
  constexpr int64_t slice_bytes_max = int64_t{64} << 20;
  model::random_weights values(weights_seed);
  const int64_t row_bytes = tensor.columns() * value_bytes;
  const int64_t rows_max = std::max<int64_t>(1, slice_bytes_max / row_bytes);
  for (int64_t row = 0; row < tensor.rows(); row += rows_max) {
    const int64_t count = std::min(rows_max, tensor.rows() - row);
    const auto slice = values.gather({{tensor, row, count, 0, tensor.columns()}}).load();
    file.write(slice.view.as<const char>(), count * row_bytes);
  }
}

}  // namespace

random_checkpoint::random_checkpoint(const config::model_config& model,
                                     const std::filesystem::path& parent) {
  auto pattern = (parent / "troupe-checkpoint-XXXXXX").string();
  if (mkdtemp(pattern.data()) == nullptr)
    throw std::runtime_error(fmt::format("no folder can be made in {}", parent.string()));
  folder_ = pattern;
  const auto path = folder_ / "model.safetensors";
  const auto tensors = released_tensors(model);
  const std::string header = header_of(tensors);
  const uint64_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file.write(header.data(), static_cast<std::streamsize>(header.size()));
  for (const auto& tensor : tensors) write_values(file, tensor);
  if (file.flush()) return;
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
  throw std::runtime_error(fmt::format("{} cannot be written: is there room?", path.string()));
}

random_checkpoint::~random_checkpoint() {
  std::error_code ignored;
  std::filesystem::remove_all(folder_, ignored);
}

}  // namespace troupe::cli
