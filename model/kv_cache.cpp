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
      arena_(lay_out(layers_, kind, activation, head_dim, limits.num_blocks)) {}

}  // namespace troupe::model
