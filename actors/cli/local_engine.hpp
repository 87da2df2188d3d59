#pragma once

#include "actors/system.hpp"
#include "config/engine_config.hpp"

#include <caf/actor_system.hpp>

namespace troupe::cli {

/// An engine in an actor system of its own, for commands that need no server.
class local_engine {
 public:
  explicit local_engine(const config::engine_config& config);

  /// Blocks until the engine serves, showing a progress bar on standard error. Throws
  /// std::runtime_error if it cannot.
  void wait_ready();

  caf::actor_system& system() { return system_; }
  actors::engine& engine() { return engine_; }
  const actors::gateway_actor& gateway() const { return engine_.gateway(); }

 private:
  actors::system_config config_;
  caf::actor_system system_;
  actors::engine engine_;
};

/// Shows how far `gateway`'s engine is until it is ready; throws std::runtime_error when it failed.
/// `stop` is polled: true ends the wait early (returns false).
bool show_loading(caf::actor_system& system, const actors::gateway_actor& gateway,
                  const std::function<bool()>& stop);

}  // namespace troupe::cli
