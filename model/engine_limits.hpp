#pragma once

#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "gpu/tensor_view.hpp"
#include "model/plan/step_plan.hpp"

#include <cstdint>

namespace troupe::model {

/// Every size of a running engine, derived once from configuration, checkpoint and memory, before
/// anything is allocated. The same on every actor and rank.
struct engine_limits {
  plan::plan_limits plan;
  gpu::dtype activation = gpu::dtype::bf16;
  int32_t tp_size = 1;
  int32_t vision_max_patches = 0;   // per encoder run: at least the largest picture
  int32_t vision_max_segments = 0;  // frames per encoder run
  int64_t kv_block_bytes = 0;       // one block, all layers, one rank
};

/// Derives the sizes. `available_bytes` is the memory free for this node's KV caches (all ranks
/// together); it matters only if `limits.kv_cache_bytes` is 0. Throws config::error listing what
/// cannot work: ranks that do not divide, a context that does not fit (with the largest that
/// would).
engine_limits derive_limits(const config::engine_config& engine,
                            const config::checkpoint_config& checkpoint, int64_t available_bytes);

/// Bytes of one block of `block_size` tokens: all layers, one of `tp_size` ranks.
int64_t kv_block_bytes(const config::text_config& text, int32_t tp_size, int32_t block_size,
                       gpu::dtype dtype);

/// Memory that this machine could give right now, in bytes (MemAvailable, and the cgroup's limit).
int64_t available_memory_bytes();

}  // namespace troupe::model
