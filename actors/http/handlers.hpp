#pragma once

#include "actors/http/api_error.hpp"
#include "actors/http/routes.hpp"

#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include <cstddef>
#include <optional>
#include <string_view>
#include <utility>

/// What each route does. Handlers answer exactly once.
namespace troupe::http {

boost::asio::awaitable<void> complete_chat(exchange x);
boost::asio::awaitable<void> complete_text(exchange x);
boost::asio::awaitable<void> tokenize(exchange x);
boost::asio::awaitable<void> detokenize(exchange x);
boost::asio::awaitable<void> list_models(exchange x);
boost::asio::awaitable<void> describe_model(exchange x);
boost::asio::awaitable<void> report_ready(exchange x);
boost::asio::awaitable<void> report_started(exchange x);
boost::asio::awaitable<void> report_alive(exchange x);
boost::asio::awaitable<void> report_metrics(exchange x);
boost::asio::awaitable<void> report_version(exchange x);

/// Why requests cannot be served now: loading, draining or a lost engine; nullopt if they can. Asks
/// the engine until it has been ready once.
boost::asio::awaitable<std::optional<api_error>> not_ready(server_context& context);

/// Runs `work` where it does not hold up the streams: large bodies on a worker, small ones here.
template <class Work>
boost::asio::awaitable<std::invoke_result_t<Work>> off_network_thread(server_context& context,
                                                                      size_t body_bytes,
                                                                      Work work) {
  constexpr size_t quick_bytes_max = 16 << 10;  // parsed in less time than a thread takes to wake
  if (body_bytes <= quick_bytes_max) co_return work();
  const auto on_worker = [&]() -> boost::asio::awaitable<std::invoke_result_t<Work>> {
    co_return work();
  };
  co_return co_await boost::asio::co_spawn(context.workers, on_worker, boost::asio::use_awaitable);
}

}  // namespace troupe::http
