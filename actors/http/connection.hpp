#pragma once

#include "actors/http/api_error.hpp"
#include "actors/http/deadline.hpp"
#include "actors/http/http_message.hpp"
#include "actors/http/server_context.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace troupe::http {

/// One client's connection: reads requests one after the other within limits of size and time,
/// hands each to its route, and writes what the route answers with back-pressure. Every wait on the
/// client is bounded.
class connection : public std::enable_shared_from_this<connection> {
 public:
  connection(boost::asio::ip::tcp::socket socket, std::shared_ptr<server_context> context);

  /// Serves requests until the client leaves, errs or is idle. Returns at once.
  void start();
  /// Ends the connection now; pending operations fail.
  void close();
  const boost::asio::ip::address& address() const { return address_; }

  // What routes use, one response per request. Writing to a client that left has no effect.

  boost::asio::awaitable<void> reply(const http_request& request, http_response response);
  /// Begins a response of unknown length; `write` sends pieces and `end_stream` the end.
  boost::asio::awaitable<void> begin_stream(const http_request& request, http_response head);
  boost::asio::awaitable<void> write(std::string_view bytes);
  boost::asio::awaitable<void> end_stream();
  /// The response cannot be completed: whatever follows would be taken for a part of it.
  void break_off() { keep_alive_ = false; }
  bool client_gone() const { return client_gone_; }
  /// Calls `leave` once if the client closes the connection before the guard is destroyed.
  class peer_watch;

  // For connection_table.
  using place = std::list<connection*>::iterator;
  void set_place(place where) { place_ = where; }
  std::optional<place> take_place() { return std::exchange(place_, std::nullopt); }

 private:
  using request_parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using error_code = boost::system::error_code;

  boost::asio::awaitable<void> run();
  boost::asio::awaitable<bool> serve_one();
  boost::asio::awaitable<bool> wait_for_request();
  boost::asio::awaitable<void> serve(request_parser& parser);
  boost::asio::awaitable<std::optional<api_error>> read_body(request_parser& parser,
                                                             http_request& request,
                                                             body_charge& charge);
  boost::asio::awaitable<void> refuse(const http_request& request, api_error error);
  boost::asio::awaitable<void> refuse_head(error_code fault);
  boost::asio::awaitable<void> write_all(std::string_view bytes);
  boost::asio::awaitable<void> linger();

  boost::asio::ip::tcp::socket socket_;
  std::shared_ptr<server_context> context_;
  boost::asio::ip::address address_;
  boost::beast::flat_buffer buffer_;
  deadline deadline_;
  std::optional<place> place_;
  body_framing framing_ = body_framing::length;
  int32_t status_ = 0;  // of the response being written
  bool first_request_ = true;
  bool keep_alive_ = true;
  bool client_gone_ = false;
  bool head_only_ = false;
};

/// Watches for the client's departure while a request is worked on, without reading what it may
/// have sent ahead.
class connection::peer_watch {
 public:
  peer_watch(connection& watched, std::function<void()> leave);
  ~peer_watch();
  peer_watch(const peer_watch&) = delete;
  peer_watch& operator=(const peer_watch&) = delete;

 private:
  struct state;
  static void watch(const std::shared_ptr<state>& shared);
  std::shared_ptr<state> state_;
};

}  // namespace troupe::http
