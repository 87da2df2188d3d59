#pragma once

#include "actors/http/connection.hpp"
#include "actors/http/http_message.hpp"
#include "actors/http/server_context.hpp"

#include <boost/asio/awaitable.hpp>

#include <string>
#include <string_view>

namespace troupe::http {

/// A request on its way through the server.
struct exchange {
  server_context& context;
  connection& client;
  http_request& request;
};

/// One line of the route table.
struct route {
  std::string_view path;    // canonical; a trailing '*' stands for any rest
  std::string_view method;  // GET (HEAD comes with it) or POST
  bool needs_key = true;
  boost::asio::awaitable<void> (*handle)(exchange) = nullptr;
};

/// The route of `path`, whatever the method; nullptr if there is none.
const route* find_route(std::string_view path);

/// The methods of a route for the Allow header.
std::string allowed_methods(const route& route);

}  // namespace troupe::http
