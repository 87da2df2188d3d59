#pragma once

#include "gpu/operations.hpp"
#include "model/vision/vision_inputs.hpp"

#include <cstdint>

namespace troupe::model {

/// Every intermediate result of an encoder run, reserved once for the largest budget.
struct vision_activations {
  gpu::tensor_view x;          // [patches, hidden]: the residual stream
  gpu::tensor_view normed;     // [patches, hidden]
  gpu::tensor_view qkv;        // [patches, 3 * hidden]
  gpu::tensor_view attention;  // [patches, hidden]
  gpu::tensor_view branch;     // [patches, hidden]: what is added to x
  gpu::tensor_view mlp;        // [patches, intermediate]
  gpu::tensor_view merged;     // [patches / merge_unit, out_hidden]

  /// The first `patches` patches of each.
  vision_activations cut(int64_t patches, int64_t merge_unit) const;
};

/// What the parts of the tower work on while they issue one budget's operations.
struct vision_step {
  gpu::operations& backend;
  const vision_views& inputs;
  vision_activations activations;
  int32_t merge_unit = 0;
};

/// Weight and bias of a layer norm, [width] each.
struct layer_norm {
  gpu::tensor_view weight;
  gpu::tensor_view bias;

  void issue(const vision_step& step, const gpu::tensor_view& output, const gpu::tensor_view& input,
             gpu::live_count rows) const;
};

/// Each `unit` neighbouring rows of a dense matrix as one row: the same bytes in another shape.
gpu::tensor_view join_rows(const gpu::tensor_view& matrix, int32_t unit);

}  // namespace troupe::model
