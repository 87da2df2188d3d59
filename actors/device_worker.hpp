#pragma once

#include "actors/device_turns.hpp"
#include "actors/engine_messages.hpp"
#include "actors/errors.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "gpu/error.hpp"

#include <caf/result.hpp>

#include <functional>
#include <memory>
#include <string>
#include <utility>

/// What the actors that compute on a device have in common: shards and the vision tower.
namespace troupe::actors {

/// What happens when a device can run nothing any more in this process: a process of its own ends. May be
/// empty; the requester gets the error in any case.
using device_loss_handler = std::function<void(const std::string& why)>;

/// How a device actor is made.
struct device_worker_options {
  gpu::backend_factory make_backend = gpu::make_operations;
  device_loss_handler lost = {};
  std::shared_ptr<device_turns> turns = {};  // of a shard and the vision tower beside it; null: there is none
};

/// The shapes of the model that a source holds. Throws config::error.
config::model_config model_of(const weight_source& source);

/// As `guarded`; `lost` hears of a lost device.
template <class T, class Work>
caf::result<T> guarded_on_device(const device_loss_handler& lost, Work&& work) {
  return guarded<T>([&]() -> caf::result<T> {
    try {
      return std::forward<Work>(work)();
    } catch (const gpu::device_lost& failure) {
      if (lost) lost(failure.what());
      throw;
    }
  });
}

}  // namespace troupe::actors
