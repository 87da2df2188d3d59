#pragma once

#include "actors/http/served_model.hpp"
#include "actors/http/server_options.hpp"
#include "actors/messages.hpp"

#include <caf/fwd.hpp>

#include <chrono>
#include <cstdint>
#include <memory>

/// OpenAI's API over HTTP/1.1: sockets, validation, streams. Reaches the engine only through the
/// gateway actor's messages; never computes and never blocks an actor.
namespace troupe::http {

struct server_context;

/// An HTTP server with one network thread. Its port is open from construction to destruction: until
/// an engine is attached and ready, everything but the probes answers 503.
class server {
 public:
  /// Listens on the host and port of `options`; port 0 picks a free one. Throws config::error if
  /// that address cannot be had. `system` must outlive the server.
  server(caf::actor_system& system, server_options options);
  /// Stops without grace.
  ~server();
  server(const server&) = delete;
  server& operator=(const server&) = delete;

  uint16_t port() const { return port_; }

  /// Requests go to `gateway` as soon as its status says ready. Once.
  void attach(actors::gateway_actor gateway, served_model model);

  /// Readiness is off and new requests are refused from now on; running ones go on.
  void drain();

  /// Drains, waits at most `grace` for running requests, ends the rest with an error and closes
  /// everything. Blocks. A second call has no effect.
  void stop(std::chrono::milliseconds grace);

 private:
  class acceptor;

  std::shared_ptr<server_context> context_;
  std::unique_ptr<acceptor> acceptor_;
  uint16_t port_ = 0;
};

}  // namespace troupe::http
