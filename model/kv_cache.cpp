#include "model/kv_cache.hpp"

#include <fmt/format.h>

namespace troupe::model {
namespace {

gpu::arena lay_out(std::vector<gpu::paged_kv>& layers, gpu::memory_kind kind, gpu::dtype activation,
                   int32_t head_dim, int32_t num_blocks) {
  arena_builder builder("kv_cache", kind);
  for (size_t i = 0; i < layers.size(); ++i)
    builder.reserve(
        layers[i].blocks, fmt::format("layer {}", i), activation,
        {int64_t{num_blocks} * 2, layers[i].num_kv_heads, layers[i].block_size, head_dim});
  return builder.seal();
}

}  // namespace

kv_cache::kv_cache(gpu::memory_kind kind, gpu::dtype activation, int32_t num_layers,
                   int32_t num_kv_heads, int32_t head_dim, const plan::plan_limits& limits)
    : layers_(static_cast<size_t>(num_layers), {{}, limits.block_size, num_kv_heads}),
      arena_(lay_out(layers_, kind, activation, head_dim, limits.num_blocks)),
      zeros_(static_cast<size_t>(layers_.front().blocks.at(0).span_bytes())) {}

void kv_cache::clear(gpu::operations& backend, int32_t block) const {
  for (const auto& layer : layers_)
    for (int64_t part = 0; part < 2; ++part)  // keys and values
      backend.upload(layer.blocks.at(int64_t{block} * 2 + part), zeros_.data(),
                     static_cast<int64_t>(zeros_.size()));
}

}  // namespace troupe::model
