#include "model/memory_plan.hpp"

#include "gpu/backend.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/lane_view.hpp"
#include "model/model_runner.hpp"
#include "model/plan/sampling_row.hpp"
#include "model/text/text_step.hpp"
#include "model/vision/vision_staging.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <utility>

namespace troupe::model {
namespace {

constexpr int64_t word_bytes = 4;  // of f32 and i32
// Below a picture of 256 x 256 pixels nobody would want to go.
constexpr int32_t least_vision_patches = 256;
constexpr int32_t least_visual_rows = 256;
// What one row samples: a token, its logprob, and the alternatives with theirs.
constexpr int64_t sampled_words = 2 + 2 * plan::max_logprobs;

/// Bytes of weights as the backend of a memory kind keeps them.
struct weight_sizes {
  gpu::dtype type;
  gpu::memory_kind kind;

  int64_t plain(int64_t elements) const { return elements * gpu::size_of(type); }
  int64_t linear(int64_t in_features, int64_t out_features) const {
    return kind == gpu::memory_kind::host ? gpu::cpu_weight_bytes(type, in_features, out_features)
                                          : plain(in_features * out_features);
  }
  /// With its bias, which the CPU backend keeps in fp32.
  int64_t affine(int64_t in_features, int64_t out_features) const {
    return linear(in_features, out_features) +
           (kind == gpu::memory_kind::host ? out_features * word_bytes : plain(out_features));
  }
};

/// The rank's share of an expert's width: every expert is on every rank.
int64_t expert_width(const config::text_config& text, const text_shape& rank) {
  return int64_t{rank.q_width()} * text.experts.moe_intermediate_size / text.q_width();
}

int64_t mlp_bytes(const config::text_config& text, const text_shape& rank, int32_t layer,
                  const weight_sizes& sizes) {
  const int64_t hidden = rank.hidden_size;
  const auto gated = [&](int64_t width) {
    return sizes.linear(hidden, 2 * width) + sizes.linear(width, hidden);
  };
  if (!text.experts.sparse(layer)) return gated(rank.intermediate_size);
  return sizes.linear(hidden, rank.num_experts) +
         rank.num_experts * gated(expert_width(text, rank));
}

int64_t text_weight_bytes(const config::text_config& text, const text_shape& rank,
                          const weight_sizes& sizes) {
  const int64_t hidden = rank.hidden_size, vocab = text.vocab_size;
  const int64_t attention =
      sizes.linear(hidden, rank.qkv_width()) + sizes.linear(rank.q_width(), hidden);
  int64_t bytes = sizes.plain(vocab * hidden) + sizes.linear(hidden, rank.vocab_part) +
                  sizes.plain(hidden) + text.head_dim * word_bytes + vocab;  // rotary, token mask
  for (int32_t layer = 0; layer < text.num_hidden_layers; ++layer)
    bytes += attention + mlp_bytes(text, rank, layer, sizes) +
             sizes.plain(2 * hidden + 2 * text.head_dim);
  return bytes;
}

int64_t vision_weight_bytes(const config::vision_config& vision, const weight_sizes& sizes) {
  const int64_t width = vision.hidden_size, merged = width * vision.merge_unit();
  const int64_t block = sizes.affine(width, 3 * width) + sizes.affine(width, width) +
                        sizes.affine(width, vision.intermediate_size) +
                        sizes.affine(vision.intermediate_size, width) + sizes.plain(4 * width);
  const int64_t merger =
      sizes.affine(merged, merged) + sizes.affine(merged, vision.out_hidden_size);
  const int64_t deepstack_mergers = vision.num_deepstack_levels();
  return sizes.affine(vision.patch_width(), width) +
         sizes.plain(vision.num_position_embeddings * width) + vision.depth * block +
         (1 + deepstack_mergers) * merger + sizes.plain(2 * width + deepstack_mergers * 2 * merged);
}

int64_t activation_bytes(const text_shape& rank, const plan::plan_limits& limits, int32_t tp_size,
                         int64_t element) {
  const int64_t per_token =
      (2 * rank.hidden_size + rank.qkv_width() + rank.q_width() + 3 * rank.intermediate_size) *
          element +
      (rank.hidden_size + rank.num_experts + 1) * word_bytes;
  const int64_t parts = rank.vocab_size + (tp_size > 1 ? rank.vocab_part : 0) + sampled_words;
  return limits.max_num_batched_tokens * per_token +
         limits.max_num_seqs * (rank.hidden_size * element + parts * word_bytes);
}

int64_t input_bytes(const plan::plan_limits& limits) {
  const int64_t per_sequence = 3 * word_bytes + int64_t{sizeof(plan::sampling_row)} +
                               limits.max_blocks_per_sequence * word_bytes;
  return limits.max_num_batched_tokens * 6 * word_bytes + limits.max_num_seqs * per_sequence +
         limits.max_adjustments * int64_t{sizeof(plan::logit_adjustment)};
}

int64_t vision_activation_bytes(const config::vision_config& vision, int64_t patches,
                                int64_t element) {
  const int64_t per_patch =
      (7 * vision.hidden_size + vision.intermediate_size + vision.patch_width()) * element;
  return patches * (per_patch + 5 * word_bytes) +
         patches / vision.merge_unit() * vision.out_hidden_size * element;
}

std::string readable(int64_t bytes) {
  constexpr double giga = 1e9, mega = 1e6;
  const auto count = static_cast<double>(bytes);
  return count >= giga ? fmt::format("{:.2f} GB", count / giga) : fmt::format("{:.2f} MB", count / mega);
}

/// What an engine takes, with the smallest KV cache that it allows.
struct memory_need {
  engine_limits limits;
  std::vector<planned_memory> lines;  // beside the KV cache
  int64_t fixed = 0;                  // their sum
  int64_t kv_cache = 0;
  double kv_share = 1;  // of what is left beside the rest, that the KV cache gets

  int64_t total() const {
    return fixed + static_cast<int64_t>(static_cast<double>(kv_cache) / kv_share);
  }
  int64_t left_for_kv(int64_t available) const {
    return static_cast<int64_t>(static_cast<double>(std::max<int64_t>(0, available - fixed)) * kv_share);
  }
  bool fits(int64_t available) const {
    return available >= fixed && left_for_kv(available) >= kv_cache;
  }
};

memory_need need_of(config::engine_config engine, const config::checkpoint_config& checkpoint,
                    gpu::memory_kind kind) {
  const int64_t asked_for = engine.limits.kv_cache_bytes;
  // Any KV cache that fits the arithmetic: its line does not count here.
  engine.limits.kv_cache_bytes = std::numeric_limits<int64_t>::max() / 2;
  memory_need need;
  need.limits = derive_limits(engine, checkpoint, 0);
  for (auto& line : plan_memory(checkpoint.model, need.limits, kind))
    if (line.owner != kv_cache_owner) need.lines.push_back(std::move(line));
  need.fixed = fixed_bytes(need.lines);
  const int64_t one_context = (need.limits.plan.max_blocks_per_sequence + 1) * need.limits.kv_block_bytes;
  need.kv_cache = need.limits.tp_size * (asked_for > 0 ? asked_for : one_context);
  if (asked_for == 0) need.kv_share = engine.limits.memory_share;
  return need;
}

/// The setting halved until everything fits, if it comes to that above `least`.
std::string halved_to_fit(const char* name, int32_t config::engine_config::limit_settings::*setting,
                          int32_t from, int32_t least, config::engine_config engine,
                          const config::checkpoint_config& checkpoint, int64_t available,
                          gpu::memory_kind kind) {
  for (int32_t value = from / 2; value >= least; value /= 2) {
    engine.limits.*setting = value;
    if (need_of(engine, checkpoint, kind).fits(available)) return fmt::format("{} {}", name, value);
  }
  return {};
}

/// A KV cache as large as there is room for, and a context that it holds.
std::string kv_cache_to_fit(const memory_need& need, const config::engine_config& engine,
                            int64_t available) {
  const auto& plan = need.limits.plan;
  const int64_t bytes = need.left_for_kv(available) / need.limits.tp_size;
  const int64_t blocks = bytes / need.limits.kv_block_bytes - 1;
  if (blocks < 1) return {};
  std::vector<std::string> changes;
  if (engine.limits.kv_cache_bytes > 0) changes.push_back(fmt::format("kv_cache_memory {}", bytes));
  if (blocks < plan.max_blocks_per_sequence)
    changes.push_back(fmt::format("max_model_len {}", blocks * plan.block_size));
  return fmt::format("{} ({} KV blocks of {} tokens)", fmt::join(changes, " and "), blocks, plan.block_size);
}

/// A larger share for the KV cache, if some of the memory is left then.
std::string memory_share_to_fit(const memory_need& need, const config::engine_config& engine,
                                int64_t available) {
  constexpr double most = 0.95, percent = 100;
  const auto left = static_cast<double>(available - need.fixed);
  if (engine.limits.kv_cache_bytes > 0 || left <= 0) return {};
  const double share = std::ceil(percent * static_cast<double>(need.kv_cache) / left) / percent;
  return share <= most ? fmt::format("memory_share {:.2f}", share) : std::string{};
}

std::vector<std::string> settings_that_fit(const memory_need& need,
                                           const config::engine_config& engine,
                                           const config::checkpoint_config& checkpoint,
                                           int64_t available, gpu::memory_kind kind) {
  using settings = config::engine_config::limit_settings;
  const auto& plan = need.limits.plan;
  const auto halved = [&](const char* name, int32_t settings::*setting, int32_t from, int32_t least) {
    return halved_to_fit(name, setting, from, least, engine, checkpoint, available, kind);
  };
  std::vector<std::string> found{
      kv_cache_to_fit(need, engine, available), memory_share_to_fit(need, engine, available),
      halved("max_num_batched_tokens", &settings::max_num_batched_tokens, plan.max_num_batched_tokens,
             plan.max_num_seqs),
      halved("vision_max_patches", &settings::vision_max_patches, need.limits.vision_max_patches,
             least_vision_patches),
      halved("visual_pool_rows", &settings::visual_pool_rows, plan.visual_pool_rows,
             least_visual_rows)};
  std::erase(found, std::string{});
  return found;
}

/// What the operations of a device keep between them.
int64_t working_bytes(const config::text_config& text, const text_shape& rank,
                      const engine_limits& limits) {
  gpu::working_shapes shapes;
  shapes.activation = limits.activation;
  shapes.rows = limits.plan.max_num_batched_tokens;
  shapes.num_q_heads = rank.num_q_heads;
  shapes.num_kv_heads = rank.num_kv_heads;
  shapes.head_dim = rank.head_dim;
  shapes.max_sequences = std::min(limits.plan.max_num_seqs, limits.plan.max_num_batched_tokens);
  shapes.num_experts = rank.num_experts;
  shapes.experts_per_row = text.experts.num_experts_per_tok;
  shapes.hidden_size = rank.hidden_size;
  shapes.expert_width = rank.num_experts > 0 ? expert_width(text, rank) : 0;
  return gpu::cuda_working_bytes(shapes);
}

/// What every rank takes.
std::vector<planned_memory> rank_memory(const config::model_config& model,
                                        const engine_limits& limits, gpu::memory_kind kind) {
  const auto& plan = limits.plan;
  const int32_t ranks = limits.tp_size;
  const text_shape rank = share_of(model.text, ranks);
  std::vector<planned_memory> rows;
  rows.push_back({"text weights", text_weight_bytes(model.text, rank, {limits.activation, kind}), ranks,
                  "this rank's share; the embedding on every rank"});
  rows.push_back({kv_cache_owner, plan.num_blocks * limits.kv_block_bytes, ranks,
                  fmt::format("{} blocks of {} tokens", plan.num_blocks, plan.block_size)});
  rows.push_back({"activations",
                  activation_bytes(rank, plan, ranks, gpu::size_of(limits.activation)), ranks,
                  fmt::format("steps of {} tokens, {} sequences", plan.max_num_batched_tokens,
                              plan.max_num_seqs)});
  rows.push_back({"step inputs", input_bytes(plan), ranks, "one copy per step"});
  const int64_t words = gpu::on_device(kind) ? gpu::lane_word_bytes : 0;
  if (ranks > 1)
    rows.push_back({"symmetric arena",
                    2 * (model_runner::lane(model, plan, ranks).slot_bytes + words) +
                        gpu::lane_control_bytes,
                    ranks, "two slots of the largest message"});
  if (gpu::on_device(kind))
    rows.push_back({"working memory", working_bytes(model.text, rank, limits), ranks,
                    "of products, attention and experts"});
  return rows;
}

/// What the node takes once, for pictures.
std::vector<planned_memory> vision_memory(const config::vision_config& vision,
                                          const engine_limits& limits, gpu::memory_kind kind) {
  const int64_t element = gpu::size_of(limits.activation);
  const int64_t levels = 1 + vision.num_deepstack_levels();
  const int64_t pool_rows = limits.plan.visual_pool_rows;
  std::vector<planned_memory> rows;
  rows.push_back({"vision weights", vision_weight_bytes(vision, {limits.activation, kind}), 1,
                  "one tower per node"});
  rows.push_back({"vision activations",
                  vision_activation_bytes(vision, limits.vision_max_patches, element), 1,
                  fmt::format("{} patches at once", limits.vision_max_patches)});
  if (gpu::on_device(kind))
    rows.push_back({"vision working memory", gpu::cuda_working_bytes({}), 1, "of products"});
  if (kind == gpu::memory_kind::host)  // elsewhere it is not in this memory
    rows.push_back({"vision staging",
                    staging_bytes({limits.vision_max_patches, vision.patch_width(), limits.activation}), 1,
                    fmt::format("{} slots for pixels", vision_staging::num_slots)});
  rows.push_back({"visual pool", levels * pool_rows * vision.out_hidden_size * element, 1,
                  fmt::format("{} rows of {} levels", pool_rows, levels)});
  return rows;
}

}  // namespace

std::vector<planned_memory> plan_memory(const config::model_config& model,
                                        const engine_limits& limits, gpu::memory_kind kind) {
  auto rows = rank_memory(model, limits, kind);
  std::ranges::move(vision_memory(model.vision, limits, kind), std::back_inserter(rows));
  return rows;
}

int64_t fixed_bytes(const std::vector<planned_memory>& plan) {
  int64_t bytes = 0;
  for (const auto& row : plan)
    if (row.owner != kv_cache_owner) bytes += row.total_bytes();
  return bytes;
}

std::string memory_shortage(const config::engine_config& engine,
                            const config::checkpoint_config& checkpoint, int64_t available_bytes,
                            gpu::memory_kind kind) {
  const auto need = need_of(engine, checkpoint, kind);
  if (need.fits(available_bytes)) return {};
  std::string text = fmt::format("{} of memory are there, {} would be needed:", readable(available_bytes),
                                 readable(need.total()));
  for (const auto& line : need.lines)
    text += fmt::format(" {} {},", line.owner, readable(line.total_bytes()));
  const auto& plan = need.limits.plan;
  text += engine.limits.kv_cache_bytes > 0
              ? fmt::format(" {} {} as asked for", kv_cache_owner, readable(need.kv_cache))
              : fmt::format(" {} {} for one context of {} tokens, in {:.0f} % of what the rest leaves",
                            kv_cache_owner, readable(need.kv_cache), plan.max_model_len,
                            100 * need.kv_share);
  const auto fitting = settings_that_fit(need, engine, checkpoint, available_bytes, kind);
  if (fitting.empty()) return text + "; no single setting makes it fit";
  return text + fmt::format("; it would fit with {}", fmt::join(fitting, ", or with "));
}

}  // namespace troupe::model
