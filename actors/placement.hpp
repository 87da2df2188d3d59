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

  gpu::backend_options shard(int32_t rank) const;
  gpu::backend_options vision_tower() const;
  /// Where the visual pool lies: beside the tower that writes it.
  gpu::memory_kind pool_memory() const { return gpu::shared_memory_on(device); }
  transport::group_placement symmetric() const;
};

/// Throws config::error for a device that this build or machine does not have.
placement place(const config::engine_config& engine);

/// `engine` with a value for every size that is chosen by the device.
config::engine_config with_device_defaults(config::engine_config engine, gpu::device_kind device);

/// Bytes that the machine, or the GPUs in use together, could give right now. Throws gpu::error.
int64_t free_memory_bytes(const placement& where);

/// Of them, what KV caches may take a share of: on the CPU all; on GPUs what is left beside everything
/// else that `troupe plan` lists. Throws config::error, gpu::error.
int64_t kv_memory_bytes(const placement& where, const config::engine_config& engine,
                        const config::checkpoint_config& checkpoint);

}  // namespace troupe::actors
