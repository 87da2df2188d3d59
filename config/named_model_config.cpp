#include "config/error.hpp"
#include "config/model_config.hpp"

#include <fmt/format.h>

namespace troupe::config {

namespace {

struct text_shape {
  int32_t layers, hidden, heads, kv_heads, intermediate;
  int32_t experts, experts_per_token, moe_intermediate;  // 0: dense
  bool tied;
};
struct vision_shape {
  int32_t depth, hidden, intermediate;
  std::array<int32_t, 3> deepstack;
};
struct released_shape {
  std::string_view name;
  text_shape text;
  vision_shape vision;
};

constexpr vision_shape small_tower{24, 1024, 4096, {5, 11, 17}};
constexpr vision_shape large_tower{27, 1152, 4304, {8, 16, 24}};
constexpr released_shape released_shapes[] = {
    {"2b", {28, 2048, 16, 8, 6144, 0, 0, 0, true}, small_tower},
    {"4b", {36, 2560, 32, 8, 9728, 0, 0, 0, true}, small_tower},
    {"8b", {36, 4096, 32, 8, 12288, 0, 0, 0, false}, large_tower},
    {"32b", {64, 5120, 64, 8, 25600, 0, 0, 0, false}, large_tower},
    {"30b-a3b", {48, 2048, 32, 4, 6144, 128, 8, 768, false}, large_tower},
    {"235b-a22b", {94, 4096, 64, 4, 12288, 128, 8, 1536, false}, large_tower},
};

text_config expand(const text_shape& shape) {
  text_config text;
  text.hidden_size = shape.hidden;
  text.num_hidden_layers = shape.layers;
  text.num_attention_heads = shape.heads;
  text.num_key_value_heads = shape.kv_heads;
  text.head_dim = 128;
  text.intermediate_size = shape.intermediate;
  text.vocab_size = 151936;
  text.max_position_embeddings = 262144;
  text.rms_norm_eps = 1e-6F;
  text.rope.rope_theta = 5e6;
  text.rope.mrope_section = {24, 20, 20};
  text.experts.num_experts = shape.experts;
  text.experts.num_experts_per_tok = shape.experts_per_token;
  text.experts.moe_intermediate_size = shape.moe_intermediate;
  return text;
}

vision_config expand(const vision_shape& shape, int32_t out_hidden_size) {
  vision_config vision;
  vision.depth = shape.depth;
  vision.hidden_size = shape.hidden;
  vision.intermediate_size = shape.intermediate;
  vision.num_heads = 16;
  vision.in_channels = 3;
  vision.patch_size = 16;
  vision.temporal_patch_size = 2;
  vision.spatial_merge_size = 2;
  vision.out_hidden_size = out_hidden_size;
  vision.num_position_embeddings = 48 * 48;
  vision.deepstack_visual_indexes.assign(shape.deepstack.begin(), shape.deepstack.end());
  return vision;
}

model_config expand(const released_shape& shape) {
  model_config model;
  model.text = expand(shape.text);
  model.vision = expand(shape.vision, shape.text.hidden);
  model.image_token_id = 151655;
  model.video_token_id = 151656;
  model.vision_start_token_id = 151652;
  model.vision_end_token_id = 151653;
  model.tie_word_embeddings = shape.text.tied;
  return model;
}

/// The bundled checkpoint's shape: the released family, everything smaller.
model_config tiny_model_config() {
  constexpr released_shape shape{
      "tiny", {6, 128, 4, 2, 384, 0, 0, 0, true}, {6, 128, 256, {1, 2, 4}}};
  auto model = expand(shape);
  model.text.vocab_size = 640;
  model.text.max_position_embeddings = 8192;
  model.vision.num_heads = 2;
  model.vision.num_position_embeddings = 16 * 16;
  model.image_token_id = 560;
  model.video_token_id = 561;
  model.vision_start_token_id = 557;
  model.vision_end_token_id = 558;
  return model;
}

}  // namespace

model_config named_model_config(std::string_view name) {
  std::string known = "tiny";
  if (name == known) return tiny_model_config();
  for (const auto& shape : released_shapes) {
    if (name == shape.name) return expand(shape);
    known += fmt::format(", {}", shape.name);
  }
  throw error(fmt::format("model shape '{}' is unknown, expected one of {}", name, known));
}

}  // namespace troupe::config
