#pragma once

#include "config/model_config.hpp"

#include <cstdint>
#include <filesystem>

namespace troupe::cli {

/// A checkpoint of a shape with random weights: one safetensors file in the layout of the released ones
/// (bf16; the experts of a layer stacked, input-major) in a folder of its own, removed with this.
class random_checkpoint {
 public:
  /// Throws std::runtime_error if `parent` cannot hold it.
  random_checkpoint(const config::model_config& model, const std::filesystem::path& parent);
  ~random_checkpoint();
  random_checkpoint(const random_checkpoint&) = delete;
  random_checkpoint& operator=(const random_checkpoint&) = delete;

  const std::filesystem::path& folder() const { return folder_; }

 private:
  std::filesystem::path folder_;
};

}  // namespace troupe::cli
