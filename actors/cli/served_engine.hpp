#pragma once

#include "actors/http/server.hpp"
#include "actors/system.hpp"
#include "config/engine_config.hpp"

#include <caf/actor_system.hpp>

#include <chrono>
#include <functional>

namespace troupe::cli {

/// An engine behind an HTTP server, in an actor system of its own. The port is open from
/// construction; /health tells how far loading is.
class served_engine {
 public:
  /// Throws config::error for what cannot work, before the port opens.
  explicit served_engine(const config::engine_config& config);

  /// Shows progress until the engine serves. False if `stop` said so first. Throws
  /// std::runtime_error if it cannot serve.
  bool wait_ready(const std::function<bool()>& stop = [] { return false; });

  uint16_t port() const { return server_.port(); }

  /// Refuses new requests, lets running ones finish within `grace`, closes everything.
  void stop(std::chrono::milliseconds grace) { server_.stop(grace); }

 private:
  actors::system_config config_;
  caf::actor_system system_;
  actors::engine engine_;
  http::server server_;
};

}  // namespace troupe::cli
