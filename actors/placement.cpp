#include "actors/placement.hpp"

#include "config/error.hpp"
#include "gpu/cuda_backend.hpp"
#include "model/memory_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>
#include <utility>

namespace troupe::actors {
namespace {

// Of each GPU: its context, the library's own memory and the graphs.
constexpr int64_t reserve_per_device = int64_t{2} << 30;

int32_t cores_here() {
  return std::max(1, static_cast<int32_t>(std::thread::hardware_concurrency()));
}

void choose_device(placement& where, config::device_choice wanted) {
  if (wanted == config::device_choice::cpu) return;
  const auto found = static_cast<int32_t>(gpu::cuda_devices().size());
  if (found > 0) {
    where.device = gpu::device_kind::cuda;
    where.num_devices = std::min(found, where.tp_size);
  } else if (wanted == config::device_choice::cuda) {
    throw config::error(
        "device is cuda, but this build has no CUDA backend or this machine no CUDA device");
  }
}

void choose_isolation(placement& where, config::isolation_mode wanted, bool can_isolate) {
  const bool on_gpus = where.device == gpu::device_kind::cuda;
  const bool shares_gpu = on_gpus && where.tp_size > where.num_devices;
  where.isolated = wanted == config::isolation_mode::process ||
                   (wanted == config::isolation_mode::automatic && on_gpus && !shares_gpu && can_isolate);
  if (!where.isolated) return;
  if (shares_gpu)
    throw config::error(fmt::format(
        "{} ranks in processes need a GPU each, this machine has {}; isolation \"thread\" lets ranks "
        "share one",
        where.tp_size, where.num_devices));
  if (!can_isolate)
    throw config::error(
        "parallel.isolation = \"process\" needs an actor system made with troupe::actors::system_config");
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

placement place(const config::engine_config& engine, bool can_isolate) {
  placement where;
  where.tp_size = engine.parallel.tensor;
  where.num_cores = cores_here();
  choose_device(where, engine.parallel.device);
  choose_isolation(where, engine.parallel.isolation, can_isolate);
  return where;
}

config::engine_config with_device_defaults(config::engine_config engine, gpu::device_kind device) {
  const bool cuda = device == gpu::device_kind::cuda;
  auto& limits = engine.limits;
  if (limits.max_num_seqs == 0) limits.max_num_seqs = cuda ? 64 : 32;
  if (limits.max_num_batched_tokens == 0) limits.max_num_batched_tokens = cuda ? 8192 : 512;
  if (limits.vision_slice_microseconds < 0) limits.vision_slice_microseconds = cuda ? 1000 : 0;
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

model::engine_limits limits_within(int64_t free_bytes, const placement& where,
                                   const config::engine_config& engine,
                                   const config::checkpoint_config& checkpoint) {
  const auto kind = where.tensor_memory();
  if (auto why = model::memory_shortage(engine, checkpoint, free_bytes, kind); !why.empty())
    throw config::error(std::move(why));
  // Sizes beside the KV cache do not depend on it.
  const auto all_to_kv = model::derive_limits(engine, checkpoint, free_bytes);
  const int64_t fixed = model::fixed_bytes(model::plan_memory(checkpoint.model, all_to_kv, kind));
  return model::derive_limits(engine, checkpoint, std::max<int64_t>(0, free_bytes - fixed));
}

}  // namespace troupe::actors
