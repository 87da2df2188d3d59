#include "model/vision/patch_merger.hpp"

namespace troupe::model {

void patch_merger::issue(const vision_step& step) const {
  const auto& views = step.activations;
  const gpu::live_count merged_rows = step.inputs.merged_rows;
  const auto joined = [&](const gpu::tensor_view& view) {
    return join_rows(view, step.merge_unit);
  };

  if (place == norm_place::before_join)
    norm.issue(step, views.normed, views.x, step.inputs.patches);
  else
    norm.issue(step, joined(views.normed), joined(views.x), merged_rows);
  const gpu::tensor_view hidden = joined(views.branch);
  step.backend.gelu_linear(hidden, joined(views.normed), fc1, gpu::gelu_kind::erf, merged_rows);
  step.backend.linear(views.merged, hidden, fc2, merged_rows);
  step.backend.scatter_rows(pool_level, views.merged, step.inputs.destination, merged_rows);
}

}  // namespace troupe::model
