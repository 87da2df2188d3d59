#include "actors/http/server.hpp"

#include "actors/http/connection.hpp"
#include "actors/http/server_context.hpp"
#include "config/error.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::http {

namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr auto awaited = asio::as_tuple(asio::use_awaitable);

asio::awaitable<void> pause(std::chrono::milliseconds time) {
  asio::steady_timer timer(co_await asio::this_coro::executor, time);
  co_await timer.async_wait(awaited);
}

/// Waits until `done`, or time is up. The connections live on this thread: where it had to wait for
/// a core, so did they, and what they have ready still gets its turns.
asio::awaitable<void> wait_until(const std::function<bool()>& done,
                                 std::chrono::milliseconds patience) {
  constexpr std::chrono::milliseconds interval{10};
  const int64_t turns_min = std::min<int64_t>(10, patience / interval);
  const auto last = std::chrono::steady_clock::now() + patience;
  for (int64_t turn = 0; !done() && (turn < turns_min || std::chrono::steady_clock::now() < last);
       ++turn)
    co_await pause(interval);
}

tcp::acceptor listen(asio::io_context& io, const std::string& host, uint16_t port) {
  try {
    tcp::resolver resolver(io);
    const auto found = resolver.resolve(host, fmt::to_string(port), tcp::resolver::passive);
    return {io, found.begin()->endpoint(), true};
  } catch (const boost::system::system_error& error) {
    throw config::error(
        fmt::format("http: cannot listen on {}:{}: {}", host, port, error.code().message()));
  }
}

}  // namespace

/// The listening socket and the thread on which all connections live.
class server::acceptor {
 public:
  acceptor(std::shared_ptr<server_context> context)
      : context_(std::move(context)),
        socket_(listen(*context_->io, context_->options.http.host, context_->options.http.port)),
        guard_(context_->io->get_executor()) {
    asio::co_spawn(*context_->io, accept(), asio::detached);
    thread_ = std::thread([io = context_->io] { io->run(); });
  }

  uint16_t port() const { return socket_.local_endpoint().port(); }

  bool stopped() const { return !thread_.joinable(); }

  void stop(std::chrono::milliseconds grace) {
    asio::co_spawn(*context_->io, shut_down(grace), asio::use_future).wait();
    guard_.reset();
    context_->io->stop();
    thread_.join();
    context_->workers.join();
  }

 private:
  asio::awaitable<void> accept() {
    while (socket_.is_open()) {
      auto [fault, client] = co_await socket_.async_accept(awaited);
      if (!socket_.is_open()) break;
      if (fault)
        co_await make_room(fault);
      else
        admit(std::move(client));
    }
  }

  /// Without free descriptors accept fails at once and for ever: free one, and never spin.
  asio::awaitable<void> make_room(boost::system::error_code fault) {
    constexpr std::chrono::milliseconds breath{50};
    if (std::exchange(last_fault_, fault) != fault)
      spdlog::warn("http: cannot accept a connection: {}", fault.message());
    context_->connections.close_longest_waiting();
    co_await pause(breath);
  }

  void admit(tcp::socket client) {
    auto added = std::make_shared<connection>(std::move(client), context_);
    if (context_->connections.add(added)) added->start();
  }

  asio::awaitable<void> shut_down(std::chrono::milliseconds grace) {
    constexpr std::chrono::milliseconds last_words{1'000};
    auto& connections = context_->connections;
    context_->draining = true;
    connections.close_all_waiting();
    const std::function<bool()> idle = [&] { return connections.num_busy() == 0; };
    const std::function<bool()> empty = [&] { return connections.size() == 0; };
    co_await wait_until(idle, grace);
    const std::vector<generation*> running(context_->generations.begin(),
                                           context_->generations.end());
    for (auto* work : running)
      work->fail(engine_fault(503, "draining", "the server is shutting down", 1'000));
    if (!running.empty()) co_await wait_until(idle, last_words);
    boost::system::error_code ignored;  // the port is given back either way
    socket_.close(ignored);
    connections.close_all();
    co_await wait_until(empty, last_words);
  }

  std::shared_ptr<server_context> context_;
  tcp::acceptor socket_;
  asio::executor_work_guard<asio::io_context::executor_type> guard_;
  std::thread thread_;
  boost::system::error_code last_fault_;
};

server::server(caf::actor_system& system, server_options options)
    : context_(std::make_shared<server_context>(system, std::move(options))),
      acceptor_(std::make_unique<acceptor>(context_)),
      port_(acceptor_->port()) {}

server::~server() {
  stop(std::chrono::milliseconds{0});
}

void server::attach(actors::gateway_actor gateway, served_model model) {
  asio::post(*context_->io, [context = context_, gateway = std::move(gateway),
                             model = std::move(model)]() mutable {
    context->link.attach(std::move(gateway));
    context->model.emplace(std::move(model));
  });
}

void server::drain() {
  asio::post(*context_->io, [context = context_] { context->draining = true; });
}

void server::stop(std::chrono::milliseconds grace) {
  if (!acceptor_->stopped()) acceptor_->stop(grace);
}

}  // namespace troupe::http
