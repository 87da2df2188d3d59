#pragma once

#include "gpu/operations.hpp"
#include "model/vision/vision_step.hpp"

namespace troupe::model {

/// Joins merge_size x merge_size patches into one row of the text model's width and writes it to a
/// level of the visual pool.
struct patch_merger {
  /// The main merger normalises each patch before joining them, a deepstack merger the joined row.
  enum class norm_place : uint8_t { before_join, after_join };

  layer_norm norm;
  gpu::linear_weight fc1;
  gpu::linear_weight fc2;
  norm_place place = norm_place::after_join;
  gpu::tensor_view pool_level;  // [pool rows, out_hidden_size]

  /// Reads `x` and leaves it as it is.
  void issue(const vision_step& step) const;
};

}  // namespace troupe::model
