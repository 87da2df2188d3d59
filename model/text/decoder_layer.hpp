#pragma once

#include "model/text/attention.hpp"
#include "model/text/mlp.hpp"

namespace troupe::model {

/// One layer of the text model. Both of its sums over the ranks are fused with the residual add and
/// with the norm that follows; so a layer starts from a normed input and ends with the next
/// layer's.
struct decoder_layer {
  model::attention attention;
  gpu::tensor_view post_attention_norm;  // [hidden]
  model::mlp mlp;
  gpu::tensor_view next_norm;    // [hidden]: of the next layer, or the final norm
  int32_t deepstack_level = -1;  // of the visual pool, added after the layer; -1: none

  /// residual += attention and MLP, then the deepstack rows; normed = norm(residual).
  void issue(const text_step& step) const;
};

}  // namespace troupe::model
