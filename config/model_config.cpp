#include "config/model_config.hpp"

#include "config/error.hpp"
#include "config/field_ranges.hpp"
#include "config/json_fields.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

namespace troupe::config {

namespace {

std::array<int32_t, 3> read_mrope_section(const json_fields& rope) {
  std::array<int32_t, 3> section{};
  const auto values = rope.sizes("mrope_section", {1, ranges::head_dims.most});
  if (values.size() == section.size())
    std::copy(values.begin(), values.end(), section.begin());
  else if (!values.empty())
    rope.fail("mrope_section", fmt::format("found {} numbers, expected 3", values.size()));
  return section;
}

void read_rope_type(const json_fields& rope, rope_config& result) {
  const auto key = rope.has("rope_type") ? "rope_type" : "type";
  const auto type = rope.has(key) ? rope.string(key) : "default";
  result.yarn = type == "yarn";
  if (!result.yarn && type != "default" && type != "mrope")
    rope.fail(key, fmt::format("found \"{}\", expected \"default\" or \"yarn\"", type));
  if (!result.yarn) return;
  result.yarn_factor = rope.number("factor", {1, 64});
  result.original_max_position_embeddings =
      rope.integer("original_max_position_embeddings", ranges::context_lengths);
  rope.expect_number("beta_fast", 32.0);
  rope.expect_number("beta_slow", 1.0);
}

/// transformers 4 keeps these in rope_scaling, with rope_theta outside; transformers 5 in
/// rope_parameters.
json_fields rope_fields(const json_fields& text) {
  return text.object(text.has("rope_scaling") ? "rope_scaling" : "rope_parameters");
}

rope_config read_rope(const json_fields& text) {
  const auto rope = rope_fields(text);
  rope_config result;
  result.rope_theta = (rope.has("rope_theta") ? rope : text).number("rope_theta", {1, 1e12});
  result.mrope_section = read_mrope_section(rope);
  read_rope_type(rope, result);
  rope.expect_boolean("mrope_interleaved", true);
  return result;
}

expert_config read_experts(const json_fields& text) {
  expert_config result;
  const auto count_key = text.has("num_experts") ? "num_experts" : "num_local_experts";
  result.num_experts = text.size(count_key, ranges::expert_counts);
  result.num_experts_per_tok = text.size("num_experts_per_tok", ranges::expert_counts);
  result.moe_intermediate_size = text.size("moe_intermediate_size", ranges::intermediate_sizes);
  if (text.has("decoder_sparse_step"))
    result.decoder_sparse_step = text.size("decoder_sparse_step", ranges::layer_counts);
  if (text.has("mlp_only_layers"))
    result.mlp_only_layers = text.sizes("mlp_only_layers", {0, ranges::layer_counts.most - 1});
  return result;
}

bool has_experts(const json_fields& text) {
  const auto positive = [&](std::string_view key) {
    return text.has(key) && text.integer(key, {0, ranges::expert_counts.most}) > 0;
  };
  return positive("num_experts") || positive("num_local_experts");
}

text_config read_text(const json_fields& text, bool moe) {
  text_config result;
  result.hidden_size = text.size("hidden_size", ranges::hidden_sizes);
  result.num_hidden_layers = text.size("num_hidden_layers", ranges::layer_counts);
  result.num_attention_heads = text.size("num_attention_heads", ranges::head_counts);
  result.num_key_value_heads = text.size("num_key_value_heads", ranges::head_counts);
  result.head_dim = text.size("head_dim", ranges::head_dims);
  result.intermediate_size = text.size("intermediate_size", ranges::intermediate_sizes);
  result.vocab_size = text.size("vocab_size", ranges::vocabulary_sizes);
  result.max_position_embeddings = text.integer("max_position_embeddings", ranges::context_lengths);
  result.rms_norm_eps = static_cast<float>(text.number("rms_norm_eps", {1e-12, 1e-2}));
  result.rope = read_rope(text);
  if (moe || has_experts(text)) result.experts = read_experts(text);
  text.expect_string("hidden_act", "silu");
  text.expect_boolean("attention_bias", false);
  return result;
}

/// The h and w frequencies interleave into every third place: the last one must still exist.
bool section_fits(const std::array<int32_t, 3>& section, int32_t head_dim) {
  const int32_t frequencies = head_dim / 2;
  return section[0] + section[1] + section[2] == frequencies && 3 * section[1] - 2 < frequencies &&
         3 * section[2] - 1 < frequencies;
}

void check_text(const json_fields& fields, const text_config& text) {
  if (text.num_attention_heads % text.num_key_value_heads != 0)
    fields.fail("num_attention_heads",
                fmt::format("found {}, expected a multiple of num_key_value_heads = {}",
                            text.num_attention_heads, text.num_key_value_heads));
  if (text.head_dim % 2 != 0)
    fields.fail("head_dim", fmt::format("found {}, expected an even number", text.head_dim));
  if (!section_fits(text.rope.mrope_section, text.head_dim))
    rope_fields(fields).fail(
        "mrope_section",
        fmt::format("found {}, expected three counts that interleave over head_dim / 2 = {}",
                    text.rope.mrope_section, text.head_dim / 2));
  if (text.experts.num_experts_per_tok > text.experts.num_experts)
    fields.fail("num_experts_per_tok",
                fmt::format("found {}, expected at most {} experts",
                            text.experts.num_experts_per_tok, text.experts.num_experts));
}

vision_config read_vision(const json_fields& fields) {
  vision_config result;
  result.depth = fields.size("depth", ranges::layer_counts);
  result.hidden_size = fields.size("hidden_size", ranges::hidden_sizes);
  result.intermediate_size = fields.size("intermediate_size", ranges::intermediate_sizes);
  result.num_heads = fields.size("num_heads", ranges::head_counts);
  result.in_channels = fields.size("in_channels", {3, 3});
  result.patch_size = fields.size("patch_size", ranges::patch_sizes);
  result.temporal_patch_size = fields.size("temporal_patch_size", ranges::temporal_patch_sizes);
  result.spatial_merge_size = fields.size("spatial_merge_size", ranges::merge_sizes);
  result.out_hidden_size = fields.size("out_hidden_size", ranges::hidden_sizes);
  result.num_position_embeddings = fields.size("num_position_embeddings", {1, 1 << 20});
  result.deepstack_visual_indexes =
      fields.sizes("deepstack_visual_indexes", {0, ranges::layer_counts.most - 1});
  fields.expect_string("hidden_act", "gelu_pytorch_tanh");
  if (fields.has("rope_parameters"))
    fields.object("rope_parameters").expect_number("rope_theta", 10000.0);
  return result;
}

void check_deepstack(const json_fields& fields, const vision_config& vision,
                     int32_t num_text_layers) {
  const auto& indexes = vision.deepstack_visual_indexes;
  const bool rising =
      std::adjacent_find(indexes.begin(), indexes.end(), std::greater_equal<>()) == indexes.end();
  const bool fits = !indexes.empty() && indexes.back() < vision.depth &&
                    vision.num_deepstack_levels() <= num_text_layers;
  if (!rising || !fits)
    fields.fail("deepstack_visual_indexes",
                fmt::format("found {}, expected rising indexes below depth = {}, 1 to {} of them "
                            "(one per text layer)",
                            indexes, vision.depth, num_text_layers));
}

void check_vision(const json_fields& fields, const vision_config& vision, const text_config& text) {
  // The rotary angles of a head are half rows, half columns, in pairs.
  if (vision.hidden_size % vision.num_heads != 0 || vision.head_dim() % 4 != 0)
    fields.fail(
        "num_heads",
        fmt::format("found {}, expected hidden_size = {} divided into heads of a multiple of 4",
                    vision.num_heads, vision.hidden_size));
  if (vision.out_hidden_size != text.hidden_size)
    fields.fail("out_hidden_size", fmt::format("found {}, expected text_config.hidden_size = {}",
                                               vision.out_hidden_size, text.hidden_size));
  const auto side = std::llround(std::sqrt(vision.num_position_embeddings));
  if (side * side != vision.num_position_embeddings)
    fields.fail("num_position_embeddings",
                fmt::format("found {}, expected a square number", vision.num_position_embeddings));
  check_deepstack(fields, vision, text.num_hidden_layers);
}

void read_token_ids(const json_fields& root, model_config& result) {
  result.image_token_id = root.size("image_token_id", ranges::token_ids);
  result.video_token_id = root.size("video_token_id", ranges::token_ids);
  result.vision_start_token_id = root.size("vision_start_token_id", ranges::token_ids);
  result.vision_end_token_id = root.size("vision_end_token_id", ranges::token_ids);
}

void check_token_ids(const json_fields& root, const model_config& model) {
  const std::set ids{model.image_token_id, model.video_token_id, model.vision_start_token_id,
                     model.vision_end_token_id};
  if (ids.size() != 4 || *ids.rbegin() >= model.text.vocab_size)
    root.fail(
        "image_token_id",
        fmt::format("the image, video, vision start and vision end ids {}, {}, {}, {} are not "
                    "distinct and below vocab_size = {}",
                    model.image_token_id, model.video_token_id, model.vision_start_token_id,
                    model.vision_end_token_id, model.text.vocab_size));
}

bool is_moe(const json_fields& root) {
  const auto type = root.string("model_type");
  if (type != "qwen3_vl" && type != "qwen3_vl_moe")
    root.fail("model_type",
              fmt::format("found \"{}\", expected \"qwen3_vl\" or \"qwen3_vl_moe\"", type));
  return type == "qwen3_vl_moe";
}

/// Whether some layer of the model uses the dense MLP.
bool has_dense_layer(const text_config& text) {
  for (int32_t layer = 0; layer < text.num_hidden_layers; ++layer)
    if (!text.experts.sparse(layer)) return true;
  return false;
}

}  // namespace

bool expert_config::sparse(int32_t layer) const {
  return num_experts > 0 && (layer + 1) % decoder_sparse_step == 0 &&
         std::find(mlp_only_layers.begin(), mlp_only_layers.end(), layer) == mlp_only_layers.end();
}

model_config parse_model_config(std::string_view json, const std::string& origin) {
  std::vector<std::string> faults;
  const json_fields root(parse_json_file(json, origin), origin + ": ", faults);
  const auto text = root.object("text_config");
  const auto vision = root.object("vision_config");
  model_config result;
  result.text = read_text(text, is_moe(root));
  result.vision = read_vision(vision);
  read_token_ids(root, result);
  // The top level decides: text_config often keeps its class default.
  const bool top_level = root.has("tie_word_embeddings") || !text.has("tie_word_embeddings");
  result.tie_word_embeddings = (top_level ? root : text).boolean("tie_word_embeddings");
  if (root.has("quantization_config"))
    root.fail("quantization_config",
              "quantised weights are not supported, expected bfloat16 or float32");
  throw_if_any(faults);
  // Relations between fields mean something only once every field is sound.
  check_text(text, result.text);
  check_vision(vision, result.vision, result.text);
  check_token_ids(root, result);
  throw_if_any(std::move(faults));
  return result;
}

std::vector<std::string> tensor_parallel_faults(const model_config& model, int32_t tp_size) {
  if (tp_size < 1) return {fmt::format("tensor parallel size {} is not positive", tp_size)};
  std::vector<std::string> faults;
  const auto require_divides = [&](std::string_view what, int32_t count) {
    if (count % tp_size != 0)
      faults.push_back(
          fmt::format("tensor parallel size {} does not divide {} = {}", tp_size, what, count));
  };
  const auto& text = model.text;
  require_divides("num_attention_heads", text.num_attention_heads);
  if (tp_size < text.num_key_value_heads)
    require_divides("num_key_value_heads", text.num_key_value_heads);
  else if (tp_size % text.num_key_value_heads != 0)
    faults.push_back(
        fmt::format("tensor parallel size {} is not a multiple of num_key_value_heads = {}",
                    tp_size, text.num_key_value_heads));
  if (has_dense_layer(text)) require_divides("intermediate_size", text.intermediate_size);
  if (text.experts.num_experts > 0)
    require_divides("moe_intermediate_size", text.experts.moe_intermediate_size);
  require_divides("vocab_size", text.vocab_size);
  return faults;
}

}  // namespace troupe::config
