#pragma once

#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::model {

/// One tensor of a safetensors file: a read-only view into the mapping.
struct stored_tensor {
  std::string name;
  gpu::dtype type = gpu::dtype::bf16;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;
  std::string file;  // for messages

  /// As a view of rank 1 (vectors) or 2 (first dimension kept, the rest joined). Read only.
  gpu::tensor_view view() const;
};

/// The header of one file, every field checked: lengths against the file, offsets in order without
/// gaps or overlap, shape times dtype against the range, known dtypes, unique names. Throws
/// config::error with every fault. `data_bytes` is what follows the header in the file. The result
/// is in file order.
struct header_entry {
  std::string name;
  gpu::dtype type = gpu::dtype::bf16;
  std::vector<int64_t> shape;
  int64_t begin = 0;  // relative to the end of the header
  int64_t end = 0;
};
std::vector<header_entry> parse_safetensors_header(std::string_view json, int64_t data_bytes,
                                                   const std::string& origin);

/// All tensors of a checkpoint folder: model.safetensors, or the shards that
/// model.safetensors.index.json names (each directly below the folder, no links out of it). Maps
/// files read-only; views live as long as this.
class safetensors_folder {
 public:
  /// Throws config::error with the faults of every file.
  explicit safetensors_folder(const std::filesystem::path& folder);
  ~safetensors_folder();
  safetensors_folder(safetensors_folder&&) noexcept;

  const std::map<std::string, stored_tensor, std::less<>>& tensors() const;
  int64_t total_bytes() const;

  /// Copies a range of one tensor to `target`, without touching the mapping. May be called by several
  /// threads at once. Throws config::error if the file cannot be read.
  void read(const std::byte* first, int64_t bytes, std::byte* target) const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
