#pragma once

#include "actors/http/api_keys.hpp"
#include "actors/http/engine_link.hpp"
#include "actors/http/generation.hpp"
#include "actors/http/served_model.hpp"
#include "actors/http/server_metrics.hpp"
#include "actors/http/server_options.hpp"

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/thread_pool.hpp>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <unordered_set>

namespace troupe::http {

class connection;

/// All connections, by what they do. A waiting one has brought no complete request head: when there
/// are too many connections, the one that has waited longest makes place, so that silent ones lock
/// nobody out.
class connection_table {
 public:
  connection_table(size_t total_max, size_t per_address_max)
      : total_max_(total_max), per_address_max_(per_address_max) {}

  /// Takes a new connection unless its address has too many; makes place if all are taken. False:
  /// refused.
  bool add(const std::shared_ptr<connection>& added);
  void remove(const std::shared_ptr<connection>& removed);

  void begin_waiting(connection& waiting);
  void end_waiting(connection& waiting);
  /// Closes the connection that has waited longest; false if none waits.
  bool close_longest_waiting();
  bool close_longest_waiting(const boost::asio::ip::address& from);

  void close_all_waiting();
  void close_all();
  size_t size() const { return all_.size(); }
  size_t num_busy() const { return all_.size() - waiting_.size(); }

 private:
  bool close_waiting(std::list<connection*>::iterator which);

  size_t total_max_;
  size_t per_address_max_;
  std::unordered_set<std::shared_ptr<connection>> all_;
  std::list<connection*> waiting_;  // longest first
  std::map<boost::asio::ip::address, size_t> per_address_;
};

/// What the connections of a server share. Belongs to the network thread, except `workers`.
struct server_context {
  server_context(caf::actor_system& system, server_options chosen);

  server_options options;
  std::shared_ptr<boost::asio::io_context> io;
  boost::asio::thread_pool workers{1};  // parses large bodies, so that streams keep flowing
  engine_link link;
  api_keys keys;
  server_metrics metrics;
  connection_table connections;
  std::unordered_set<generation*> generations;
  std::optional<served_model> model;  // empty until attached
  bool engine_was_ready = false;
  bool draining = false;
  int64_t body_bytes = 0;  // held now
  uint64_t num_generated_seeds = 0;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
};

/// Memory of a request's body, held against the budget of all while it lives.
class body_charge {
 public:
  explicit body_charge(server_context& context) : context_(context) {}
  ~body_charge() { context_.body_bytes -= bytes_; }
  body_charge(const body_charge&) = delete;
  body_charge& operator=(const body_charge&) = delete;

  /// Raises the charge to `bytes`; false if all bodies together would exceed the budget.
  bool raise_to(int64_t bytes);

 private:
  server_context& context_;
  int64_t bytes_ = 0;
};

}  // namespace troupe::http
