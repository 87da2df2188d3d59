#include "model/vision/vision_tower.hpp"

#include "config/ensure.hpp"
#include "model/arena_builder.hpp"
#include "model/weight_placement.hpp"
#include "model/work_model.hpp"

#include <fmt/format.h>

#include <cmath>

namespace troupe::model {
namespace {

void add_norm(resident_weights& placed, layer_norm& norm, const std::string& name,
              const affine& source, gpu::dtype activation) {
  placed.add(norm.weight, name + ".weight", source.weight, activation);
  placed.add(norm.bias, name + ".bias", source.bias, activation);
}

/// Level 0 of the pool is the main merger's; a name for each in messages and the ledger.
std::string merger_name(size_t level) {
  return level == 0 ? "merger" : fmt::format("deepstack_merger_list.{}", level - 1);
}

const merger_weights& merger_source(const vision_weights& weights, size_t level) {
  return level == 0 ? weights.merger : weights.deepstack_mergers[level - 1];
}

}  // namespace

vision_tower::vision_tower(gpu::operations& backend, const config::vision_config& config,
                           const vision_weights& weights, const vision_views& inputs,
                           const gpu::tensor_view& pool, const vision_options& options)
    : backend_(&backend),
      config_(config),
      inputs_(inputs),
      position_side_(static_cast<int32_t>(std::lround(std::sqrt(config.num_position_embeddings)))),
      blocks_(static_cast<size_t>(config.depth)),
      mergers_(static_cast<size_t>(1 + config.num_deepstack_levels())),
      parts_(make_parts(config)) {
  config::ensure(weights.blocks.size() == blocks_.size(), "{} blocks of weights, expected {}",
                 weights.blocks.size(), blocks_.size());
  config::ensure(weights.deepstack_mergers.size() + 1 == mergers_.size(),
                 "{} deepstack mergers, expected {}", weights.deepstack_mergers.size(),
                 mergers_.size() - 1);
  for (size_t level = 0; level < mergers_.size(); ++level)
    mergers_[level].pool_level = pool.at(static_cast<int64_t>(level));
  mergers_[0].place = patch_merger::norm_place::before_join;
  for (auto& block : blocks_) block.num_heads = config.num_heads;
  place_weights(backend, weights, options.activation);
  prepare_linears(backend, weights, options.activation);
  lay_out_activations(backend.memory(), options);
  backend.synchronize();  // the weights are there
}

void vision_tower::place_weights(gpu::operations& backend, const vision_weights& weights,
                                 gpu::dtype activation) {
  resident_weights placed("vision_weights", backend.memory());
  placed.add(position_embedding_, "pos_embed", weights.position_embedding, activation);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const std::string name = fmt::format("blocks.{}", i);
    add_norm(placed, blocks_[i].norm1, name + ".norm1", weights.blocks[i].norm1, activation);
    add_norm(placed, blocks_[i].norm2, name + ".norm2", weights.blocks[i].norm2, activation);
  }
  for (size_t level = 0; level < mergers_.size(); ++level)
    add_norm(placed, mergers_[level].norm, merger_name(level) + ".norm",
             merger_source(weights, level).norm, activation);
  arenas_.push_back(placed.seal(backend));
}

void vision_tower::prepare_linears(gpu::operations& backend, const vision_weights& weights,
                                   gpu::dtype activation) {
  const auto prepare = [&](const std::string& name, const affine& source) {
    return prepare_linear(backend, activation, "visual." + name, source.weight, source.bias);
  };
  patch_embed_ = prepare("patch_embed", weights.patch_embed);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const std::string name = fmt::format("blocks.{}", i);
    blocks_[i].qkv = prepare(name + ".attn.qkv", weights.blocks[i].qkv);
    blocks_[i].proj = prepare(name + ".attn.proj", weights.blocks[i].proj);
    blocks_[i].fc1 = prepare(name + ".mlp.linear_fc1", weights.blocks[i].fc1);
    blocks_[i].fc2 = prepare(name + ".mlp.linear_fc2", weights.blocks[i].fc2);
  }
  for (size_t level = 0; level < mergers_.size(); ++level) {
    const merger_weights& source = merger_source(weights, level);
    mergers_[level].fc1 = prepare(merger_name(level) + ".linear_fc1", source.fc1);
    mergers_[level].fc2 = prepare(merger_name(level) + ".linear_fc2", source.fc2);
  }
}

void vision_tower::lay_out_activations(gpu::memory_kind kind, const vision_options& options) {
  const int64_t patches = options.max_patches;
  const int64_t hidden = config_.hidden_size;
  const gpu::dtype type = options.activation;
  auto& views = activations_;
  arena_builder builder("vision_activations", kind);
  builder.reserve(views.x, "x", type, {patches, hidden});
  builder.reserve(views.normed, "normed", type, {patches, hidden});
  builder.reserve(views.qkv, "qkv", type, {patches, 3 * hidden});
  builder.reserve(views.attention, "attention", type, {patches, hidden});
  builder.reserve(views.branch, "branch", type, {patches, hidden});
  builder.reserve(views.mlp, "mlp", type, {patches, config_.intermediate_size});
  builder.reserve(views.merged, "merged", type,
                  {patches / config_.merge_unit(), config_.out_hidden_size});
  arenas_.push_back(builder.seal());
}

std::vector<vision_tower::part> vision_tower::make_parts(const config::vision_config& config) {
  using enum part::kind;
  std::vector<part> parts{{embedding, 0}};
  const auto& taps = config.deepstack_visual_indexes;
  for (int32_t block = 0; block < config.depth; ++block) {
    parts.push_back({attention, static_cast<size_t>(block)});
    parts.push_back({mlp, static_cast<size_t>(block)});
    for (size_t level = 0; level < taps.size(); ++level)
      if (taps[level] == block) parts.push_back({merger, 1 + level});
  }
  parts.push_back({merger, 0});
  return parts;
}

std::vector<double> vision_tower::part_flops(int32_t budget_patches) const {
  const auto frame = frame_flops(config_, budget_patches);
  std::vector<double> flops;
  for (const auto& [what, index] : parts_)
    flops.push_back(what == part::kind::embedding   ? frame.embedding
                    : what == part::kind::attention ? frame.attention
                    : what == part::kind::mlp       ? frame.mlp
                                                    : frame.merger);
  return flops;
}

void vision_tower::issue(int32_t budget_patches, part_range parts) const {
  const int32_t merge_unit = config_.merge_unit();
  const vision_step step{*backend_, inputs_, activations_.cut(budget_patches, merge_unit),
                         merge_unit};
  for (int32_t i = parts.first; i < parts.end; ++i) issue(parts_[static_cast<size_t>(i)], step);
}

void vision_tower::issue(const part& wanted, const vision_step& step) const {
  switch (wanted.what) {
    case part::kind::embedding:
      return embed(step);
    case part::kind::attention:
      return blocks_[wanted.index].issue_attention(step);
    case part::kind::mlp:
      return blocks_[wanted.index].issue_mlp(step);
    case part::kind::merger:
      return mergers_[wanted.index].issue(step);
  }
}

void vision_tower::embed(const vision_step& step) const {
  const gpu::tensor_view& x = step.activations.x;
  backend_->linear(x, inputs_.pixels.slice_rows(0, x.rows()), patch_embed_, inputs_.patches);
  backend_->add_position_embedding(x, position_embedding_, position_side_, inputs_.coordinates,
                                   inputs_.patches);
}

}  // namespace troupe::model
