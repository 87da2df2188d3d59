#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// Plain data that describes the checkpoint and the engine, checked once at start. Nothing here
/// computes, allocates device memory or knows an actor.
namespace troupe::config {

/// Rotary settings of the text model. Read from `rope_scaling` + `rope_theta` (transformers 4) or
/// `rope_parameters` (transformers 5).
struct rope_config {
  double rope_theta = 0;
  std::array<int32_t, 3> mrope_section{};  // frequencies that follow t, h, w; sum = head_dim / 2
  bool yarn = false;
  double yarn_factor = 1;
  int64_t original_max_position_embeddings = 0;  // YaRN only

  bool operator==(const rope_config&) const = default;
};

/// Mixture of experts; `num_experts` 0 means dense.
struct expert_config {
  int32_t num_experts = 0;
  int32_t num_experts_per_tok = 0;
  int32_t moe_intermediate_size = 0;
  int32_t decoder_sparse_step = 1;
  std::vector<int32_t> mlp_only_layers;

  /// Whether decoder layer `layer` routes to experts instead of the dense MLP.
  bool sparse(int32_t layer) const;
  bool operator==(const expert_config&) const = default;
};

/// `text_config` of config.json, key names kept.
struct text_config {
  int32_t hidden_size = 0;
  int32_t num_hidden_layers = 0;
  int32_t num_attention_heads = 0;
  int32_t num_key_value_heads = 0;
  int32_t head_dim = 0;
  int32_t intermediate_size = 0;
  int32_t vocab_size = 0;
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 0;
  rope_config rope;
  expert_config experts;

  int32_t q_width() const { return num_attention_heads * head_dim; }
  int32_t kv_width() const { return num_key_value_heads * head_dim; }
  bool operator==(const text_config&) const = default;
};

/// `vision_config` of config.json, key names kept.
struct vision_config {
  int32_t depth = 0;
  int32_t hidden_size = 0;
  int32_t intermediate_size = 0;
  int32_t num_heads = 0;
  int32_t in_channels = 0;
  int32_t patch_size = 0;
  int32_t temporal_patch_size = 0;
  int32_t spatial_merge_size = 0;
  int32_t out_hidden_size = 0;
  int32_t num_position_embeddings = 0;  // a square number: the side of the learned table squared
  std::vector<int32_t> deepstack_visual_indexes;

  int32_t head_dim() const { return hidden_size / num_heads; }
  int32_t patch_width() const {
    return in_channels * temporal_patch_size * patch_size * patch_size;
  }
  int32_t merge_unit() const { return spatial_merge_size * spatial_merge_size; }
  int32_t num_deepstack_levels() const {
    return static_cast<int32_t>(deepstack_visual_indexes.size());
  }
  bool operator==(const vision_config&) const = default;
};

struct model_config {
  text_config text;
  vision_config vision;
  int32_t image_token_id = 0;
  int32_t video_token_id = 0;
  int32_t vision_start_token_id = 0;
  int32_t vision_end_token_id = 0;
  bool tie_word_embeddings = false;

  bool operator==(const model_config&) const = default;
};

/// preprocessor_config.json and video_preprocessor_config.json. Bounds are pixel counts.
struct preprocessor_config {
  int64_t image_min_pixels = 0;
  int64_t image_max_pixels = 0;
  int64_t video_min_pixels = 0;  // over time: frames * height * width
  int64_t video_max_pixels = 0;
  int32_t patch_size = 16;
  int32_t temporal_patch_size = 2;
  int32_t merge_size = 2;
  std::array<float, 3> mean{};
  std::array<float, 3> std{};
  double video_fps = 2;
  int32_t video_min_frames = 4;
  int32_t video_max_frames = 768;

  int32_t factor() const { return patch_size * merge_size; }
};

/// generation_config.json. Absent settings stay empty: the neutral default applies.
struct generation_config {
  std::vector<int32_t> eos_token_ids;
  bool do_sample = false;
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int32_t> top_k;
  std::optional<float> repetition_penalty;
};

/// Everything of a checkpoint folder except weights and tokenizer.
struct checkpoint_config {
  std::filesystem::path folder;
  model_config model;
  preprocessor_config preprocessor;
  generation_config generation;
};

/// Parses config.json. `origin` names the file in messages. Throws config::error listing every
/// missing, ill-typed or impossible field. Source: spec of the released checkpoints; both rope
/// layouts, dense and MoE, `num_experts` or `num_local_experts`.
model_config parse_model_config(std::string_view json, const std::string& origin);

/// Parses the two preprocessor files; an empty `video_json` means the file is absent and the
/// processor class's own defaults apply. `origin` ("folder/", or empty) goes before the file names
/// in messages. Throws config::error with every fault of both.
preprocessor_config parse_preprocessor_config(std::string_view image_json,
                                              std::string_view video_json,
                                              const std::string& origin);

generation_config parse_generation_config(std::string_view json, const std::string& origin);

/// Reads the four files of `folder`. Opens only files directly below it. Throws config::error with
/// every fault of every file.
checkpoint_config read_checkpoint_config(const std::filesystem::path& folder);

struct engine_config;
/// The same for `engine.model.path`, with the pixel bounds of `engine.vision` in place of the
/// checkpoint's for pictures.
checkpoint_config read_checkpoint_config(const engine_config& engine);

/// A released shape by name ("2b", "4b", "8b", "32b", "30b-a3b", "235b-a22b") or "tiny", for
/// benchmarks and plans that need no files. Throws config::error naming the known shapes.
model_config named_model_config(std::string_view name);

/// The rules under which `tp_size` ranks can share the model: heads, key-value heads, intermediate
/// width and vocabulary divide. Returns the faults, empty if it can.
std::vector<std::string> tensor_parallel_faults(const model_config& model, int32_t tp_size);

}  // namespace troupe::config
