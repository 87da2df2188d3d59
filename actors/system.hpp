#pragma once

#include "actors/messages.hpp"
#include "config/engine_config.hpp"
#include "config/model_config.hpp"
#include "gpu/backend.hpp"
#include "model/tokenizer/tokenizer.hpp"

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

namespace troupe::actors {

/// Registers message types and the error category, sets the scheduler policy and heartbeats. A program
/// that embeds troupe derives its own configuration from this one.
struct system_config : caf::actor_system_config {
  system_config();
};

/// A running engine inside somebody's actor system. Destroying it stops every actor it spawned, within
/// a bound; requests still running end as failed.
class engine {
 public:
  /// Spawns and wires gateway, tokenizer, vision encoder, scheduler, shards, detokenizer and supervisor as
  /// the configuration says. Returns at once: loading goes on in the background, `get_status` tells how
  /// far. Throws config::error for a configuration or checkpoint that cannot work.
  ///
  /// `make_backend` makes the backends of shards and vision tower where they are threads (tests).
  engine(caf::actor_system& system, const config::engine_config& config,
         gpu::backend_factory make_backend = gpu::make_operations);
  ~engine();
  engine(engine&&) noexcept;

  const gateway_actor& gateway() const;

  /// What the engine loaded to start, for whoever serves it: nobody needs to load it again.
  const config::checkpoint_config& checkpoint() const;
  const std::shared_ptr<const model::tokenizer>& tokenizer() const;

  /// Blocks the calling thread until ready or failed; throws std::runtime_error with the reason.
  void wait_ready(std::chrono::milliseconds timeout) const;

  /// No new requests; running ones finish or fail at the deadline.
  void drain(std::chrono::milliseconds grace);

 private:
  struct state;
  std::unique_ptr<state> state_;
};

/// Ids that are unique within the process.
request_id next_request_id();

}  // namespace troupe::actors
