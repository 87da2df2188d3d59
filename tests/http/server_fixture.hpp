#pragma once

#include "actors/http/server.hpp"
#include "tests/http/fake_gateway.hpp"
#include "tests/http/raw_client.hpp"

#include <spdlog/spdlog.h>
#include <caf/actor_system.hpp>
#include <caf/send.hpp>

#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <thread>

namespace troupe::tests {

/// A server before the fake engine, on a free port.
struct server_fixture {
  explicit server_fixture(http::server_options options = {}, bool attach = true) {
    options.http.port = 0;
    spdlog::set_level(spdlog::level::err);  // tests look at answers, not at logs
    server = std::make_unique<http::server>(system, options);
    if (attach) server->attach(gateway, fake_model());
  }
  ~server_fixture() {
    server.reset();
    caf::anon_send_exit(gateway, caf::exit_reason::user_shutdown);
  }

  uint16_t port() const { return server->port(); }

  test_system_config config;
  caf::actor_system system{config};
  std::shared_ptr<fake_engine_state> engine = std::make_shared<fake_engine_state>();
  actors::gateway_actor gateway = spawn_fake_gateway(system, engine);
  std::unique_ptr<http::server> server;
};

/// Whether `condition` becomes true: at once on an idle machine, within a minute on any.
inline bool soon(const std::function<bool()>& condition) {
  const auto last = std::chrono::steady_clock::now() + std::chrono::minutes{1};
  while (!condition()) {
    if (std::chrono::steady_clock::now() > last) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds{2});
  }
  return true;
}

/// The body of a chat request with one user text and more fields.
inline std::string chat_body(const std::string& text, const std::string& fields = {}) {
  return R"({"messages":[{"role":"user","content":")" + text + "\"}]" +
         (fields.empty() ? "" : "," + fields) + "}";
}

}  // namespace troupe::tests
