#include "model/text/decoder_layer.hpp"

namespace troupe::model {
namespace {

constexpr int32_t no_deepstack_level = -1;

}  // namespace

void decoder_layer::issue(const text_step& step) const {
  attention.issue(step, {post_attention_norm, no_deepstack_level});
  const residual_update after_mlp{next_norm, deepstack_level};
  std::visit([&](const auto& kind) { kind.issue(step, after_mlp); }, mlp);
}

}  // namespace troupe::model
