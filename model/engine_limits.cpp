#include "model/engine_limits.hpp"

#include "config/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace troupe::model {
namespace {

constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A pool of one full-size picture (16,384 rows) is always enough to make progress; more only helps
// many requests that wait at once.
constexpr int64_t visual_pool_rows_default = 16'384;
// Adjustments beside a request's own history: logit_bias entries of a whole batch.
constexpr int64_t adjustments_spare = 4'096;
// Frames of one encoder run.
constexpr int64_t vision_segments_most = 1'024;

/// Blocks of the pool, the reserved block 0 included.
int64_t choose_num_blocks(const config::engine_config& engine, const engine_limits& limits,
                          int64_t available_bytes) {
  const auto& settings = engine.limits;
  // More than every sequence at full length can never be used.
  const int64_t useful =
      int64_t{limits.plan.max_num_seqs} * limits.plan.max_blocks_per_sequence + 1;
  const int64_t bytes_per_rank =
      settings.kv_cache_bytes > 0
          ? settings.kv_cache_bytes
          : static_cast<int64_t>(static_cast<double>(available_bytes) * settings.memory_share) /
                limits.tp_size;
  return std::min({useful, bytes_per_rank / limits.kv_block_bytes,
                   int64_t{std::numeric_limits<int32_t>::max()} / settings.block_size});
}

void check_context_fits(const engine_limits& limits) {
  const auto& plan = limits.plan;
  if (plan.num_blocks - 1 >= plan.max_blocks_per_sequence) return;
  throw config::error(fmt::format(
      "max_model_len {} needs {} KV blocks of {} tokens, but {} fit ({} bytes each per rank); the "
      "largest context that fits is {}",
      plan.max_model_len, plan.max_blocks_per_sequence, plan.block_size,
      std::max(0, plan.num_blocks - 1), limits.kv_block_bytes,
      std::max<int64_t>(0, int64_t{plan.num_blocks - 1} * plan.block_size)));
}

int64_t read_number(const char* path, const std::string& label) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (!label.empty() && word != label) continue;
    if (!label.empty()) file >> word;
    if (word.find_first_not_of("0123456789") == std::string::npos) return std::stoll(word);
    return -1;
  }
  return -1;
}

std::vector<std::string> faults_of(const config::engine_config& engine,
                                   const config::model_config& model) {
  auto faults = config::tensor_parallel_faults(model, engine.parallel.tensor);
  if (engine.model.max_model_len > model.text.max_position_embeddings)
    faults.push_back(fmt::format("max_model_len {} is over the model's {} positions",
                                 engine.model.max_model_len, model.text.max_position_embeddings));
  return faults;
}

/// All but the number of blocks, which depends on memory.
void limit_steps(plan::plan_limits& plan, const config::engine_config& engine,
                 const config::text_config& text) {
  const auto& settings = engine.limits;
  plan.max_model_len =
      engine.model.max_model_len > 0 ? engine.model.max_model_len : text.max_position_embeddings;
  plan.vocab_size = text.vocab_size;
  plan.block_size = settings.block_size;
  plan.max_num_seqs = settings.max_num_seqs;
  plan.max_num_batched_tokens = std::max(settings.max_num_batched_tokens, settings.max_num_seqs);
  plan.token_buckets = plan::make_token_buckets(plan.max_num_batched_tokens);
  plan.max_blocks_per_sequence =
      static_cast<int32_t>(ceil_div(plan.max_model_len, settings.block_size));
  plan.visual_pool_rows =
      settings.visual_pool_rows > 0
          ? settings.visual_pool_rows
          : static_cast<int32_t>(std::min<int64_t>(
                plan.max_model_len,
                std::max<int64_t>(visual_pool_rows_default, 4 * plan.max_num_batched_tokens)));
  plan.max_adjustments = static_cast<int32_t>(
      std::min<int64_t>(plan.vocab_size, plan.max_model_len) + adjustments_spare);
}

void limit_vision(engine_limits& limits, const config::engine_config::limit_settings& settings,
                  const config::preprocessor_config& processor) {
  const int64_t merge_unit = int64_t{processor.merge_size} * processor.merge_size;
  const int64_t patch_area = int64_t{processor.patch_size} * processor.patch_size;
  const int64_t largest_picture = ceil_div(processor.image_max_pixels, patch_area);
  const int64_t reachable = limits.plan.max_model_len * merge_unit;
  limits.vision_max_patches = settings.vision_max_patches > 0
                                  ? settings.vision_max_patches
                                  : static_cast<int32_t>(std::min(largest_picture, reachable));
  // A frame has at least one merge unit of patches.
  limits.vision_max_segments = static_cast<int32_t>(
      std::min(limits.vision_max_patches / merge_unit, vision_segments_most));
}

}  // namespace

int64_t kv_block_bytes(const config::text_config& text, int32_t tp_size, int32_t block_size,
                       gpu::dtype dtype) {
  const int64_t heads = std::max(1, text.num_key_value_heads / tp_size);
  return int64_t{2} * text.num_hidden_layers * heads * text.head_dim * block_size *
         gpu::size_of(dtype);
}

engine_limits derive_limits(const config::engine_config& engine,
                            const config::checkpoint_config& checkpoint, int64_t available_bytes) {
  const auto& text = checkpoint.model.text;
  if (auto faults = faults_of(engine, checkpoint.model); !faults.empty())
    throw config::error(std::move(faults));

  engine_limits limits;
  limits.tp_size = engine.parallel.tensor;
  limits.activation =
      engine.model.dtype == config::compute_dtype::float32 ? gpu::dtype::f32 : gpu::dtype::bf16;
  limits.kv_block_bytes =
      kv_block_bytes(text, limits.tp_size, engine.limits.block_size, limits.activation);
  limit_steps(limits.plan, engine, text);
  limits.plan.num_blocks = static_cast<int32_t>(choose_num_blocks(engine, limits, available_bytes));
  check_context_fits(limits);
  limit_vision(limits, engine.limits, checkpoint.preprocessor);
  return limits;
}

int64_t available_memory_bytes() {
  const int64_t free_kib = read_number("/proc/meminfo", "MemAvailable:");
  const int64_t group_limit = read_number("/sys/fs/cgroup/memory.max", "");
  const int64_t group_used = read_number("/sys/fs/cgroup/memory.current", "");
  int64_t bytes = free_kib > 0 ? free_kib * 1024 : 0;
  if (group_limit > 0 && group_used >= 0) bytes = std::min(bytes, group_limit - group_used);
  return std::max<int64_t>(bytes, 0);
}

}  // namespace troupe::model
