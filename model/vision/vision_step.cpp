#include "model/vision/vision_step.hpp"

namespace troupe::model {
namespace {

// Of every layer norm of the tower; the checkpoint does not state it. Source: Qwen3-VL.
constexpr float layer_norm_epsilon = 1e-6F;

}  // namespace

vision_activations vision_activations::cut(int64_t patches, int64_t merge_unit) const {
  vision_activations part = *this;
  for (auto* view : {&part.x, &part.normed, &part.qkv, &part.attention, &part.branch, &part.mlp})
    *view = view->slice_rows(0, patches);
  part.merged = part.merged.slice_rows(0, patches / merge_unit);
  return part;
}

void layer_norm::issue(const vision_step& step, const gpu::tensor_view& output,
                       const gpu::tensor_view& input, gpu::live_count rows) const {
  step.backend.layer_norm(output, input, weight, bias, layer_norm_epsilon, rows);
}

gpu::tensor_view join_rows(const gpu::tensor_view& matrix, int32_t unit) {
  return gpu::make_view(matrix.data, matrix.type, matrix.rows() / unit, matrix.width() * unit);
}

}  // namespace troupe::model
