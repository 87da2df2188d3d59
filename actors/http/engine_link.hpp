#pragma once

#include "actors/messages.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/message.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <unordered_map>

namespace troupe::http {

/// Hears what becomes of requests. Called on the network thread; after one of the last four nothing
/// more comes for that id.
class engine_listener {
 public:
  virtual ~engine_listener() = default;
  virtual void on_text(const actors::text_delta& event) = 0;
  virtual void on_finished(const actors::request_finished& event) = 0;
  virtual void on_rejected(const actors::request_rejected& event) = 0;
  virtual void on_failed(const actors::request_failed& event) = 0;
  virtual void on_cancelled(const actors::request_cancelled& event) = 0;
};

class event_inbox;

/// The bridge between the network thread and the engine's actors. One actor receives the events of
/// all requests; they wait in a lock-free inbox and wake the network thread once per burst, not
/// once per token. Belongs to the network thread.
class engine_link {
 public:
  engine_link(caf::actor_system& system, std::shared_ptr<boost::asio::io_context> io);
  ~engine_link();
  engine_link(const engine_link&) = delete;
  engine_link& operator=(const engine_link&) = delete;

  /// From now on requests go to `gateway`, whose end ends them.
  void attach(actors::gateway_actor gateway);
  /// Whether there is an engine that has not ended.
  bool alive() const { return static_cast<bool>(gateway_); }

  /// `listener` stays until the request's end or `forget`.
  void submit(std::shared_ptr<const actors::completion_request> request, engine_listener& listener);
  void cancel(actors::request_id id);
  /// Stops and continues what the engine generates for a request.
  void pause(actors::request_id id);
  void resume(actors::request_id id);
  void forget(actors::request_id id);

  /// Questions to the engine; nullopt if it does not answer in `timeout`.
  boost::asio::awaitable<std::optional<actors::engine_status>> status();
  boost::asio::awaitable<std::optional<actors::tokenized>> tokenize(actors::tokenize_text question);
  boost::asio::awaitable<std::optional<actors::detokenized>> detokenize(
      actors::detokenize_ids question);

 private:
  void dispatch(const caf::message& event);
  void engine_lost();

  caf::actor_system& system_;
  std::shared_ptr<boost::asio::io_context> io_;
  std::shared_ptr<event_inbox> inbox_;
  caf::actor sink_;
  actors::gateway_actor gateway_;
  std::unordered_map<actors::request_id, engine_listener*> listeners_;
};

}  // namespace troupe::http
