#pragma once

#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "gpu/arena.hpp"
#include "model/engine_limits.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::model {

/// One line of a memory plan.
struct planned_memory {
  std::string owner;      // "text weights", "KV cache", ...
  int64_t bytes = 0;      // of one instance
  int32_t instances = 1;  // tp_size for what every rank has, 1 for what the node has once
  std::string note;       // how it comes about

  int64_t total_bytes() const { return bytes * instances; }
};

/// Where every byte of a node goes, from shapes alone: the same sizes that runners reserve when
/// their tensors lie in memory of `kind`.
std::vector<planned_memory> plan_memory(const config::model_config& model,
                                        const engine_limits& limits,
                                        gpu::memory_kind kind = gpu::memory_kind::host);

/// Everything but the KV cache, all ranks together.
int64_t fixed_bytes(const std::vector<planned_memory>& plan);

/// Why `available_bytes` do not hold what `engine` asks for: how much is missing, where all of it would go,
/// and which single setting would make it fit. Empty if they do. The KV cache must hold one context at
/// least, in its share of what is left beside all else.
std::string memory_shortage(const config::engine_config& engine,
                            const config::checkpoint_config& checkpoint, int64_t available_bytes,
                            gpu::memory_kind kind = gpu::memory_kind::host);

/// Name of the KV cache's line.
inline constexpr const char* kv_cache_owner = "KV cache";

}  // namespace troupe::model
