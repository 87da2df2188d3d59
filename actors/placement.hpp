#pragma once

#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/engine_limits.hpp"
#include "transport/symmetric_arena.hpp"

#include <cstdint>

namespace troupe::actors {

/// What the parts of one node's engine run on: the CPU, or CUDA device r % num_devices for rank r.
struct placement {
  gpu::device_kind device = gpu::device_kind::cpu;
  int32_t num_devices = 0;  // CUDA devices that are used
  int32_t tp_size = 1;
  int32_t num_cores = 1;
  bool isolated = false;  // every shard in a process of its own

  gpu::backend_options shard(int32_t rank) const;
  gpu::backend_options vision_tower() const;
  /// Where the tensors of shards and tower lie.
  gpu::memory_kind tensor_memory() const {
    return device == gpu::device_kind::cuda ? gpu::memory_kind::device : gpu::memory_kind::host;
  }
  /// Where the visual pool lies: beside the tower that writes it.
  gpu::memory_kind pool_memory() const { return gpu::shared_memory_on(device); }
  transport::group_placement symmetric() const;
};

/// Throws config::error for a device that this build or machine does not have, and for isolation that is
/// asked for and not possible: processes are started and talked to only if `can_isolate`.
placement place(const config::engine_config& engine, bool can_isolate = true);

/// `engine` with a value for every size that is chosen by the device.
config::engine_config with_device_defaults(config::engine_config engine, gpu::device_kind device);

/// Bytes that the machine, or the GPUs in use together, could give right now. Throws gpu::error.
int64_t free_memory_bytes(const placement& where);

/// Every size of an engine that has `free_bytes` for all of it: KV caches take a share of what is left
/// beside everything else that `troupe plan` lists. Throws config::error; if the memory does not suffice, one
/// that says where it would go and what would fit.
model::engine_limits limits_within(int64_t free_bytes, const placement& where,
                                   const config::engine_config& engine,
                                   const config::checkpoint_config& checkpoint);

}  // namespace troupe::actors
