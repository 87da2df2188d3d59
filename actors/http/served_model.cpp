#include "actors/http/served_model.hpp"

#include <algorithm>
#include <filesystem>
#include <utility>

namespace troupe::http {

namespace {

/// The last part of a folder's path, also if a slash follows it.
std::string folder_name(const std::filesystem::path& folder) {
  return (folder.has_filename() ? folder : folder.parent_path()).filename().string();
}

}  // namespace

served_model make_served_model(const config::engine_config& config,
                               const config::checkpoint_config& checkpoint,
                               model::template_kind kind,
                               std::shared_ptr<const model::tokenizer> tokenizer) {
  served_model served;
  auto& limits = served.limits;
  limits.served_names = config.model.served_names;
  if (limits.served_names.empty())
    limits.served_names.push_back(folder_name(checkpoint.folder));
  limits.max_model_len = config.model.max_model_len > 0
                             ? config.model.max_model_len
                             : checkpoint.model.text.max_position_embeddings;
  limits.num_token_ids = std::min(tokenizer->size(), checkpoint.model.text.vocab_size);
  limits.preprocessor = checkpoint.preprocessor;
  limits.generation = checkpoint.generation;
  limits.num_images_max = config.limits.max_images_per_request;
  limits.num_frames_max = config.limits.max_video_frames;
  limits.request_pixels_max = config.limits.max_request_pixels;
  served.root = config.model.path;
  served.kind = kind;
  served.seed = config.model.seed;
  served.block_size = config.limits.block_size;
  served.token_bytes = [tokenizer = std::move(tokenizer)](int32_t id) {
    return tokenizer->token_bytes(id);
  };
  return served;
}

}  // namespace troupe::http
