#pragma once

#include "model/weights/safetensors.hpp"
#include "model/weights/weight_layout.hpp"

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// A matrix as it lies in a file: element (r, c) is at data + (r * row_stride + c * column_stride)
/// elements. An expert that is stored input-major has a column stride.
struct stored_matrix {
  const std::byte* data = nullptr;
  gpu::dtype type = gpu::dtype::bf16;
  int64_t row_stride = 0;
  int64_t column_stride = 1;

  const std::byte* at(int64_t row, int64_t column) const {
    return data + (row * row_stride + column * column_stride) * gpu::size_of(type);
  }
};

/// Finds the tensors of the network in a folder, whatever prefix and expert layout its files use.
///
///   experts, one layer     gate_up_proj               down_proj
///   input-major            [experts, hidden, 2 * width]   [experts, width, hidden]    (released
///   files) output-major           [experts, 2 * width, hidden]   [experts, hidden, width] one by
///   one             {e}.gate_proj.weight, {e}.up_proj.weight, {e}.down_proj.weight
///
/// Both stacked shapes decide together: where 2 * width = hidden the first says nothing, but then
/// the second does.
class checkpoint_index {
 public:
  checkpoint_index(const safetensors_folder& folder, const config::model_config& model);

  /// Throws config::error if the folder lacks the tensor or its shape differs.
  stored_matrix find(const tensor_spec& tensor) const;

  /// Missing, unexpected and mis-shaped tensors, dtypes that are no weights, names that mean the
  /// same.
  std::vector<std::string> faults() const;

 private:
  struct stacked_experts {
    const stored_tensor* gate_up = nullptr;
    const stored_tensor* down = nullptr;
    bool input_major = true;
  };
  /// What a lookup found: the tensor that holds the matrix, or why there is none.
  struct lookup {
    stored_matrix matrix;
    std::vector<const stored_tensor*> holders;
    std::string fault;
  };

  const stored_tensor* stored(std::string_view published_name) const;
  lookup look_up(const tensor_spec& tensor) const;
  lookup look_up_stacked(const expert_matrix& expert) const;
  std::string tied_head_fault() const;

  const config::model_config& model_;
  std::map<std::string, const stored_tensor*, std::less<>> by_published_name_;
  std::vector<std::string> name_faults_;
};

}  // namespace troupe::model
