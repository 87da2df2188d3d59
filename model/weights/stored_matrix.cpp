#include "model/weights/stored_matrix.hpp"

#include "config/error.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstring>
#include <set>

namespace troupe::model {

namespace {

/// Older and third-party files leave out `model.` or `language_model.`.
std::string published_name(const std::string& name) {
  struct {
    std::string_view stored, published;
  } const prefixes[] = {{"model.language_model.", "model.language_model."},
                        {"model.visual.", "model.visual."},
                        {"language_model.model.", "model.language_model."},
                        {"language_model.lm_head.", "lm_head."},
                        {"visual.", "model.visual."},
                        {"model.", "model.language_model."}};
  for (const auto& prefix : prefixes)
    if (name.starts_with(prefix.stored))
      return std::string(prefix.published) + name.substr(prefix.stored.size());
  return name;
}

std::string shape_fault(const stored_tensor& found, const std::vector<int64_t>& expected) {
  return fmt::format("{}: tensor {}: shape is {}, expected {}", found.file, found.name, found.shape,
                     expected);
}

bool is_weight_dtype(gpu::dtype type) {
  return type == gpu::dtype::bf16 || type == gpu::dtype::f32;
}

}  // namespace

checkpoint_index::checkpoint_index(const safetensors_folder& folder,
                                   const config::model_config& model)
    : model_(model) {
  for (const auto& [name, tensor] : folder.tensors()) {
    const auto [place, is_new] = by_published_name_.emplace(published_name(name), &tensor);
    if (!is_new)
      name_faults_.push_back(fmt::format("{}: tensors {} and {} are the same one", tensor.file,
                                         place->second->name, name));
  }
}

const stored_tensor* checkpoint_index::stored(std::string_view published_name) const {
  const auto place = by_published_name_.find(published_name);
  return place == by_published_name_.end() ? nullptr : place->second;
}

checkpoint_index::lookup checkpoint_index::look_up(const tensor_spec& tensor) const {
  const auto* found = stored(tensor.name);
  if (!found && tensor.expert &&
      (stored(tensor.expert->experts + "gate_up_proj") ||
       stored(tensor.expert->experts + "down_proj")))
    return look_up_stacked(*tensor.expert);
  if (!found) return {{}, {}, fmt::format("tensor {} is missing", tensor.name)};
  if (found->shape != tensor.shape) return {{}, {found}, shape_fault(*found, tensor.shape)};
  return {{found->data, found->type, tensor.columns(), 1}, {found}, {}};
}

checkpoint_index::lookup checkpoint_index::look_up_stacked(const expert_matrix& expert) const {
  using shape = std::vector<int64_t>;
  const int64_t experts = model_.text.experts.num_experts;
  const int64_t width = model_.text.experts.moe_intermediate_size;
  const int64_t hidden = model_.text.hidden_size;
  const auto* gate_up = stored(expert.experts + "gate_up_proj");
  const auto* down = stored(expert.experts + "down_proj");
  if (!gate_up || !down)
    return {{},
            {gate_up ? gate_up : down},
            fmt::format("tensor {}{} is missing", expert.experts,
                        gate_up ? "down_proj" : "gate_up_proj")};
  const bool input_major = gate_up->shape == shape{experts, hidden, 2 * width} &&
                           down->shape == shape{experts, width, hidden};
  const bool output_major = gate_up->shape == shape{experts, 2 * width, hidden} &&
                            down->shape == shape{experts, hidden, width};
  if (!input_major && !output_major)
    return {
        {},
        {gate_up, down},
        fmt::format("{}: tensors {} and down_proj: shapes are {} and {}, expected {} and {}, or "
                    "{} and {}",
                    gate_up->file, gate_up->name, gate_up->shape, down->shape,
                    shape{experts, hidden, 2 * width}, shape{experts, width, hidden},
                    shape{experts, 2 * width, hidden}, shape{experts, hidden, width})};
  const bool is_down = expert.projection == expert_projection::down;
  const auto& holder = is_down ? *down : *gate_up;
  const int64_t out = is_down ? hidden : 2 * width;
  const int64_t in = is_down ? width : hidden;
  stored_matrix matrix{holder.data, holder.type, in, 1};
  if (input_major) std::tie(matrix.row_stride, matrix.column_stride) = std::pair(int64_t{1}, out);
  matrix.data += expert.index * out * in * gpu::size_of(holder.type);
  if (expert.projection == expert_projection::up) matrix.data = matrix.at(width, 0);
  return {matrix, {gate_up, down}, {}};
}

stored_matrix checkpoint_index::find(const tensor_spec& tensor) const {
  auto result = look_up(tensor);
  if (!result.fault.empty()) throw config::error(result.fault);
  return result.matrix;
}

/// A file may repeat the tied embedding as lm_head, but not contradict it.
std::string checkpoint_index::tied_head_fault() const {
  const auto& head = *stored(lm_head_name);
  const auto* embedding = stored(embedding_name);
  const bool equal = embedding && head.type == embedding->type && head.shape == embedding->shape &&
                     std::memcmp(head.data, embedding->data, static_cast<size_t>(head.bytes)) == 0;
  if (equal) return {};
  return fmt::format(
      "{}: tensor {}: differs from the embedding, expected none or a copy with tie_word_embeddings",
      head.file, head.name);
}

std::vector<std::string> checkpoint_index::faults() const {
  auto faults = name_faults_;
  std::set<std::string> reported;  // one stacked tensor is looked up once per expert
  std::set<const stored_tensor*> used;
  const auto report = [&](const std::string& fault) {
    if (!fault.empty() && reported.insert(fault).second) faults.push_back(fault);
  };
  for (const auto& tensor : checkpoint_tensors(model_)) {
    const auto result = look_up(tensor);
    report(result.fault);
    used.insert(result.holders.begin(), result.holders.end());
  }
  if (model_.tie_word_embeddings && stored(lm_head_name)) {
    report(tied_head_fault());
    used.insert(stored(lm_head_name));
  }
  for (const auto& [name, tensor] : by_published_name_) {
    if (!used.contains(tensor))
      report(fmt::format("{}: tensor {} is unexpected", tensor->file, tensor->name));
    else if (!is_weight_dtype(tensor->type))
      report(fmt::format("{}: tensor {}: holds integers, expected BF16 or F32", tensor->file,
                         tensor->name));
  }
  return faults;
}

}  // namespace troupe::model
