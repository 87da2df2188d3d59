// The HTTP server before the fake engine, for clients in other languages. Prints its address and
// serves until standard input ends.
#include "actors/http/server.hpp"
#include "tests/http/fake_gateway.hpp"

#include <spdlog/spdlog.h>
#include <caf/send.hpp>

#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>

int main(int argc, char** argv) {
  using namespace troupe;
  http::server_options options;
  options.http.port = 0;
  if (argc > 1) {
    const std::string_view port = argv[1];
    std::from_chars(port.data(), port.data() + port.size(), options.http.port);
  }
  if (argc > 2) options.http.api_keys.emplace_back(argv[2]);
  spdlog::set_level(spdlog::level::warn);
  tests::test_system_config config;
  caf::actor_system system(config);
  const auto gateway =
      tests::spawn_fake_gateway(system, std::make_shared<tests::fake_engine_state>());
  {
    http::server server(system, options);
    server.attach(gateway, tests::fake_model());
    std::printf("serving on http://127.0.0.1:%d/v1\n", server.port());
    std::fflush(stdout);
    while (std::getchar() != EOF) {
    }
    server.stop(std::chrono::seconds{1});
  }
  caf::anon_send_exit(gateway, caf::exit_reason::user_shutdown);
}
