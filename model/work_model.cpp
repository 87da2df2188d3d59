#include "model/work_model.hpp"

#include <cmath>

namespace troupe::model {
namespace {

int64_t attention_parameters(const config::text_config& text) {
  return int64_t{text.hidden_size} * (2 * text.q_width() + 2 * text.kv_width());
}

int64_t expert_parameters(const config::text_config& text) {
  return int64_t{3} * text.hidden_size * text.experts.moe_intermediate_size;
}

/// Parameters of layer `layer` of which `experts` experts take part (dense layers: all).
double layer_parameters(const config::text_config& text, int32_t layer, double experts) {
  const double attention = static_cast<double>(attention_parameters(text));
  if (!text.experts.sparse(layer))
    return attention + 3.0 * text.hidden_size * text.intermediate_size;
  return attention + static_cast<double>(text.experts.num_experts) * text.hidden_size +
         experts * static_cast<double>(expert_parameters(text));
}

double layers_parameters(const config::text_config& text, double experts) {
  double sum = 0;
  for (int32_t layer = 0; layer < text.num_hidden_layers; ++layer)
    sum += layer_parameters(text, layer, experts);
  return sum;
}

/// Expected number of experts that at least one of `tokens` tokens chose, if all are equally
/// likely.
double distinct_experts(const config::expert_config& experts, int64_t tokens) {
  if (experts.num_experts == 0) return 0;
  const double missed =
      1.0 - static_cast<double>(experts.num_experts_per_tok) / experts.num_experts;
  return experts.num_experts * (1.0 - std::pow(missed, static_cast<double>(tokens)));
}

double head_parameters(const config::text_config& text) {
  return static_cast<double>(text.vocab_size) * text.hidden_size;
}

}  // namespace

int64_t active_layer_parameters(const config::text_config& text) {
  return static_cast<int64_t>(layers_parameters(text, text.experts.num_experts_per_tok));
}

double decode_bytes(const config::text_config& text, gpu::dtype weight_type, gpu::dtype cache_type,
                    int64_t batch, int64_t context) {
  const double weights =
      layers_parameters(text, distinct_experts(text.experts, batch)) + head_parameters(text);
  const double cached_values = 2.0 * text.num_hidden_layers * text.kv_width() *
                               static_cast<double>(batch) * static_cast<double>(context);
  return weights * static_cast<double>(gpu::size_of(weight_type)) +
         cached_values * static_cast<double>(gpu::size_of(cache_type));
}

double prefill_flops(const config::text_config& text, int64_t tokens, int64_t cached) {
  const double count = static_cast<double>(tokens);
  const double mean_keys = static_cast<double>(cached) + (count + 1) / 2;
  const double linears = 2.0 * static_cast<double>(active_layer_parameters(text)) * count;
  const double attention = 4.0 * text.num_hidden_layers * text.q_width() * mean_keys * count;
  return linears + attention + 2.0 * head_parameters(text);
}

vision_part_flops frame_flops(const config::vision_config& vision, int64_t patches) {
  const auto count = static_cast<double>(patches);
  const double width = vision.hidden_size;
  const double merged = width * vision.merge_unit();
  vision_part_flops flops;
  flops.embedding = 2.0 * count * vision.patch_width() * width;
  flops.attention = 2.0 * count * 4 * width * width + 4.0 * width * count * count;
  flops.mlp = 2.0 * count * 2 * width * vision.intermediate_size;
  flops.merger =
      2.0 * count / vision.merge_unit() * (merged * merged + merged * vision.out_hidden_size);
  return flops;
}

double vision_flops(const config::vision_config& vision, const std::vector<patch_grid>& grids) {
  double flops = 0;
  for (const auto& grid : grids) {
    const auto frame = frame_flops(vision, int64_t{grid.height} * grid.width);
    flops += grid.t * (frame.embedding + vision.depth * (frame.attention + frame.mlp) +
                       (1 + vision.num_deepstack_levels()) * frame.merger);
  }
  return flops;
}

}  // namespace troupe::model
