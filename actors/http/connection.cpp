#include "actors/http/connection.hpp"

#include "actors/http/request_head.hpp"
#include "actors/http/routes.hpp"

#include <poll.h>

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/http/read.hpp>

#include <algorithm>
#include <chrono>

namespace troupe::http {

namespace {

namespace asio = boost::asio;
namespace beast_http = boost::beast::http;
using asio::ip::tcp;

constexpr auto awaited = asio::as_tuple(asio::use_awaitable);

constexpr uint32_t header_bytes_max = 16 << 10;
constexpr size_t buffer_bytes_max = 64 << 10;
// A body must bring this much in every header timeout: slow enough for any honest client.
constexpr int64_t body_progress_bytes = 64 << 10;
// A slice must leave in one stalled-client timeout: 30 s for 16 KiB is slower than a modem.
constexpr size_t write_slice_bytes = 16 << 10;
// The kernel's part of a stream's buffer; it doubles the number.
constexpr int send_buffer_bytes = 128 << 10;

bool has_body(const beast_http::request_header<>& head) {
  const auto length = head[beast_http::field::content_length];
  return head.count(beast_http::field::transfer_encoding) > 0 || (!length.empty() && length != "0");
}

std::string_view method_label(std::string_view method) {
  for (std::string_view known : {"GET", "HEAD", "POST", "OPTIONS"})
    if (method == known) return known;
  return "other";
}

/// Why a request must not reach its route, from its head alone.
std::optional<http_response> refusal(const http_request& request, const route* found,
                                     const api_keys& keys) {
  const bool open = found != nullptr && !found->needs_key;
  if (keys.required() && !open && !keys.accept(request.authorization))
    return error_response(make_error(401, "invalid_api_key",
                                     "expected the header Authorization: Bearer KEY with a key "
                                     "that this server knows"));
  if (request.method == "OPTIONS") {
    http_response allowed;
    allowed.status = 204;
    allowed.headers.emplace_back(
        "Allow", found != nullptr ? allowed_methods(*found) : "GET, HEAD, POST, OPTIONS");
    return allowed;
  }
  if (found == nullptr)
    return error_response(
        make_error(404, "not_found", fmt::format("there is nothing at {}", excerpt(request.path))));
  if (request.method == found->method || (request.method == "HEAD" && found->method == "GET"))
    return std::nullopt;
  auto refused = error_response(make_error(405, "method_not_allowed",
                                           fmt::format("{} is served by {}, found {}", found->path,
                                                       found->method, excerpt(request.method))));
  refused.headers.emplace_back("Allow", allowed_methods(*found));
  return refused;
}

/// Whether the other side has closed its direction, even behind bytes that nobody read yet.
bool peer_closed(int descriptor) {
  pollfd state{descriptor, POLLRDHUP, 0};
  return poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

}  // namespace

connection::connection(tcp::socket socket, std::shared_ptr<server_context> context)
    : socket_(std::move(socket)),
      context_(std::move(context)),
      buffer_(buffer_bytes_max),
      deadline_(socket_) {
  error_code ignored;  // a client that is gone already shows at the first read
  address_ = socket_.remote_endpoint(ignored).address();
  socket_.set_option(tcp::no_delay(true), ignored);
  socket_.set_option(tcp::socket::send_buffer_size(send_buffer_bytes), ignored);
}

void connection::start() {
  asio::co_spawn(
      socket_.get_executor(), [self = shared_from_this()] { return self->run(); }, asio::detached);
}

void connection::close() {
  error_code ignored;  // closing twice is harmless
  socket_.close(ignored);
}

asio::awaitable<void> connection::run() {
  const auto self = shared_from_this();
  try {
    while (co_await serve_one()) {
    }
  } catch (const std::exception& error) {
    spdlog::error("a connection ended by an unexpected exception: {}", error.what());
  }
  close();
  context_->connections.remove(self);
}

/// Serves one request; whether another may follow.
asio::awaitable<bool> connection::serve_one() {
  context_->connections.begin_waiting(*this);
  if (!co_await wait_for_request()) co_return false;
  request_parser parser;
  parser.header_limit(header_bytes_max);
  parser.body_limit(static_cast<uint64_t>(context_->options.http.max_body_bytes));
  deadline_.arm(context_->options.http.header_timeout);
  const auto [fault, bytes] =
      co_await beast_http::async_read_header(socket_, buffer_, parser, awaited);
  deadline_.disarm();
  context_->connections.end_waiting(*this);
  if (fault) {
    co_await refuse_head(fault);
    co_return false;
  }
  co_await serve(parser);
  co_return keep_alive_ && !client_gone_ && !context_->draining;
}

asio::awaitable<bool> connection::wait_for_request() {
  const auto& options = context_->options;
  const bool first = std::exchange(first_request_, false);
  if (buffer_.size() > 0) co_return true;
  deadline_.arm(first ? options.http.header_timeout : options.idle_timeout);
  const auto [fault] = co_await socket_.async_wait(tcp::socket::wait_read, awaited);
  deadline_.disarm();
  co_return !fault;
}

asio::awaitable<void> connection::serve(request_parser& parser) {
  const auto arrived = std::chrono::steady_clock::now();
  auto checked = read_head(parser.get());
  if (const auto* fault = std::get_if<api_error>(&checked)) {
    keep_alive_ = false;  // what follows a head that cannot be trusted is anybody's guess
    const http_request unknown;
    co_await refuse(unknown, *fault);
    co_return;
  }
  auto& request = std::get<http_request>(checked);
  request.arrived = arrived;
  keep_alive_ = request.keep_alive;
  head_only_ = request.method == "HEAD";
  const auto* found = find_route(request.path);
  if (auto refused = refusal(request, found, context_->keys)) {
    if (has_body(parser.get())) keep_alive_ = false;
    co_await reply(request, std::move(*refused));
    if (!keep_alive_) co_await linger();
  } else {
    body_charge charge(*context_);
    if (const auto fault = co_await read_body(parser, request, charge)) {
      keep_alive_ = false;
      co_await refuse(request, *fault);
    } else if (!client_gone_) {
      const exchange x{*context_, *this, request};
      co_await found->handle(x);
    }
  }
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - arrived;
  context_->metrics.count_http(method_label(request.method), status_,
                               found != nullptr ? found->path : "none", taken.count());
}

asio::awaitable<std::optional<api_error>> connection::read_body(request_parser& parser,
                                                                http_request& request,
                                                                body_charge& charge) {
  const auto over_budget = [] {
    return engine_fault(503, "overloaded", "the server holds as many request bodies as it may",
                        1'000);
  };
  const auto announced = static_cast<int64_t>(parser.content_length().value_or(0));
  if (!charge.raise_to(announced)) co_return over_budget();
  if (request.expects_continue && !parser.is_done())
    co_await write_all("HTTP/1.1 100 Continue\r\n\r\n");
  parser.eager(true);
  int64_t due = 0;
  while (!parser.is_done() && !client_gone_) {
    const auto held = static_cast<int64_t>(parser.get().body().size());
    if (!charge.raise_to(held)) co_return over_budget();
    if (held >= due) {
      deadline_.arm(context_->options.http.header_timeout);
      due = held + body_progress_bytes;
    }
    const auto [fault, bytes] =
        co_await beast_http::async_read_some(socket_, buffer_, parser, awaited);
    if (!fault) continue;
    if (deadline_.expired())
      co_return make_error(
          408, "request_timeout",
          fmt::format("the body came slower than {} bytes in {} ms", body_progress_bytes,
                      context_->options.http.header_timeout.count()));
    client_gone_ = true;
    if (auto error = parse_fault(fault, context_->options.http.max_body_bytes)) {
      client_gone_ = false;
      co_return error;
    }
  }
  deadline_.disarm();
  request.body = std::move(parser.get().body());
  co_return std::nullopt;
}

/// Answers a request that was not read to its end, and closes so that the client still reads the
/// answer.
asio::awaitable<void> connection::refuse(const http_request& request, api_error error) {
  co_await reply(request, error_response(error));
  co_await linger();
}

asio::awaitable<void> connection::refuse_head(error_code fault) {
  auto error = parse_fault(fault, context_->options.http.max_body_bytes);
  if (deadline_.expired() && buffer_.size() > 0)
    error = make_error(408, "request_timeout",
                       fmt::format("the request's head was not complete after {} ms",
                                   context_->options.http.header_timeout.count()));
  if (!error) co_return;
  keep_alive_ = false;
  head_only_ = false;
  const http_request unknown;
  co_await refuse(unknown, std::move(*error));
  context_->metrics.count_http("other", status_, "none", 0);
}

asio::awaitable<void> connection::reply(const http_request& request, http_response response) {
  status_ = response.status;
  std::string bytes;
  const bool keep = keep_alive_ && !context_->draining;
  append_head(bytes, response, request, body_framing::length, response.body.size(), keep);
  if (!head_only_) bytes += response.body;
  co_await write_all(bytes);
}

asio::awaitable<void> connection::begin_stream(const http_request& request, http_response head) {
  status_ = head.status;
  framing_ = request.http_1_1 ? body_framing::chunked : body_framing::until_close;
  if (framing_ == body_framing::until_close) keep_alive_ = false;
  std::string bytes;
  append_head(bytes, head, request, framing_, 0, keep_alive_ && !context_->draining);
  co_await write_all(bytes);
}

asio::awaitable<void> connection::write(std::string_view bytes) {
  if (framing_ == body_framing::until_close) {
    co_await write_all(bytes);
    co_return;
  }
  const auto chunk = fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
  co_await write_all(chunk);
}

asio::awaitable<void> connection::end_stream() {
  if (framing_ == body_framing::chunked) co_await write_all("0\r\n\r\n");
}

asio::awaitable<void> connection::write_all(std::string_view bytes) {
  while (!bytes.empty() && !client_gone_) {
    const auto slice = bytes.substr(0, write_slice_bytes);
    deadline_.arm(context_->options.http.stalled_client_timeout);
    const auto [fault, written] =
        co_await asio::async_write(socket_, asio::buffer(slice.data(), slice.size()), awaited);
    deadline_.disarm();
    if (fault) {
      client_gone_ = true;
      if (deadline_.expired()) context_->metrics.count_stalled();
    }
    bytes.remove_prefix(slice.size());
  }
}

/// Closing while the client still sends would reset the connection, and the answer could be lost on
/// the way: read on for a moment, into nothing.
asio::awaitable<void> connection::linger() {
  constexpr std::chrono::milliseconds patience{2'000};
  constexpr size_t bytes_max = 4 << 20;
  keep_alive_ = false;
  error_code ignored;
  socket_.shutdown(tcp::socket::shutdown_send, ignored);
  buffer_.clear();
  deadline_.arm(patience);
  for (size_t total = 0; total < bytes_max;) {
    const auto [fault, bytes] =
        co_await socket_.async_read_some(buffer_.prepare(buffer_bytes_max), awaited);
    if (fault) break;
    total += bytes;
  }
  deadline_.disarm();
}

struct connection::peer_watch::state {
  state(connection& watched, std::function<void()> what)
      : socket(&watched.socket_), poll(watched.socket_.get_executor()), leave(std::move(what)) {}
  tcp::socket* socket;  // null once the guard is gone
  asio::steady_timer poll;
  std::function<void()> leave;
};

connection::peer_watch::peer_watch(connection& watched, std::function<void()> leave)
    : state_(std::make_shared<state>(watched, std::move(leave))) {
  watch(state_);
}

connection::peer_watch::~peer_watch() {
  error_code ignored;
  state_->socket->cancel(ignored);
  state_->socket = nullptr;
  state_->poll.cancel();
}

void connection::peer_watch::watch(const std::shared_ptr<state>& shared) {
  shared->socket->async_wait(tcp::socket::wait_read, [shared](error_code fault) {
    if (fault || shared->socket == nullptr) return;
    if (peer_closed(shared->socket->native_handle())) return shared->leave();
    // The next request came early and stays unread, so readiness tells nothing any more.
    constexpr std::chrono::milliseconds interval{100};
    shared->poll.expires_after(interval);
    shared->poll.async_wait([shared](error_code cancelled) {
      if (!cancelled && shared->socket != nullptr) watch(shared);
    });
  });
}

}  // namespace troupe::http
