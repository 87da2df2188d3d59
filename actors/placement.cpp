#include "actors/placement.hpp"

#include "config/error.hpp"
#include "gpu/cuda_backend.hpp"
#include "model/memory_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <thread>

namespace troupe::actors {
namespace {

// Of each GPU: its context, the library's own memory and the graphs.
constexpr int64_t reserve_per_device = int64_t{2} << 30;

int32_t cores_here() {
  return std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
}

/// The largest KV cache never counts here, so any that fits the arithmetic will do.
int64_t bytes_beside_kv(const config::engine_config& engine,
                        const config::checkpoint_config& checkpoint) {
  config::engine_config probe = engine;
  probe.limits.kv_cache_bytes = std::numeric_limits<int64_t>::max() / 2;
  const auto limits = model::derive_limits(probe, checkpoint, 0);
  return model::fixed_bytes(model::plan_memory(checkpoint.model, limits));
}

}  // namespace

gpu::backend_options placement::shard(int32_t rank) const {
  gpu::backend_options options;
  options.device = device;
  options.num_threads = std::max(1, num_cores / tp_size);
  if (device == gpu::device_kind::cpu) return options;
  options.cuda_device = rank % num_devices;
  options.ranks_on_device = (tp_size + num_devices - 1) / num_devices;
  return options;
}

gpu::backend_options placement::vision_tower() const {
  gpu::backend_options options;
  options.device = device;
  options.num_threads = std::max(1, num_cores / 2);  // the other half decodes meanwhile
  options.background = true;
  return options;
}

transport::group_placement placement::symmetric() const {
  transport::group_placement where{gpu::shared_memory_on(device), {}};
  if (device == gpu::device_kind::cuda)
    for (int32_t rank = 0; rank < tp_size; ++rank)
      where.devices.push_back(shard(rank).cuda_device);
  return where;
}

placement place(const config::engine_config& engine) {
  placement where;
  where.tp_size = engine.parallel.tensor;
  where.num_cores = cores_here();
  if (engine.parallel.device == config::device_choice::cpu) return where;
  const auto found = static_cast<int32_t>(gpu::cuda_devices().size());
  if (found == 0) {
    if (engine.parallel.device == config::device_choice::cuda)
      throw config::error(
          "device is cuda, but this build has no CUDA backend or this machine no CUDA device");
    return where;
  }
  where.device = gpu::device_kind::cuda;
  where.num_devices = std::min(found, where.tp_size);
  if (where.tp_size > found && engine.parallel.isolation == config::isolation_mode::process)
    throw config::error(fmt::format(
        "{} ranks in processes need a GPU each, this machine has {}; isolation \"thread\" lets ranks "
        "share one",
        where.tp_size, found));
  return where;
}

config::engine_config with_device_defaults(config::engine_config engine, gpu::device_kind device) {
  const bool cuda = device == gpu::device_kind::cuda;
  auto& limits = engine.limits;
  if (limits.max_num_seqs == 0) limits.max_num_seqs = cuda ? 64 : 32;
  if (limits.max_num_batched_tokens == 0) limits.max_num_batched_tokens = cuda ? 8192 : 512;
  if (limits.memory_share == 0) limits.memory_share = cuda ? 0.9 : 0.5;
  return engine;
}

int64_t free_memory_bytes(const placement& where) {
  if (where.device == gpu::device_kind::cpu) return model::available_memory_bytes();
  int64_t bytes = 0;
  for (int32_t device = 0; device < where.num_devices; ++device)
    bytes += std::max<int64_t>(0, gpu::free_cuda_bytes(device) - reserve_per_device);
  return bytes;
}

int64_t kv_memory_bytes(const placement& where, const config::engine_config& engine,
                        const config::checkpoint_config& checkpoint) {
  const int64_t bytes = free_memory_bytes(where);
  if (where.device == gpu::device_kind::cpu) return bytes;
  return std::max<int64_t>(0, bytes - bytes_beside_kv(engine, checkpoint));
}

}  // namespace troupe::actors
