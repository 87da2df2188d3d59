// The running server from outside: what clients send, well-meaning and not.
#include "config/json.hpp"
#include "tests/http/fixture_images.hpp"
#include "tests/http/server_fixture.hpp"

#include <fmt/format.h>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

namespace troupe::tests {
namespace {

using namespace std::chrono_literals;

constexpr const char* chat = "/v1/chat/completions";

std::string error_code_of(const raw_response& response) {
  const auto body = config::parse_json(response.body);
  const auto error = body.find("error");
  BOOST_REQUIRE(error);
  for (const auto* key : {"message", "type"}) BOOST_TEST(error->find(key)->string().has_value());
  const auto code = error->find("code")->string();
  return std::string(code.value_or(""));
}

std::string content_of(const raw_response& response) {
  const auto body = config::parse_json(response.body);
  return std::string(
      *body.find("choices")->elements().at(0).find("message")->find("content")->string());
}

size_t count(const std::string& text, std::string_view part) {
  size_t found = 0;
  for (auto at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size()))
    ++found;
  return found;
}

BOOST_AUTO_TEST_SUITE(http_protocol)

BOOST_AUTO_TEST_CASE(routes_answer_with_and_without_v1_and_a_trailing_slash) {
  const server_fixture fixture;
  for (const auto* path :
       {"/health", "/v1/health", "/health/", "/ready", "/live", "/startup", "/v1/models", "/models",
        "/v1/models/", "/v1/models/fake", "/models/org/alias", "/v1/models/org%2Falias", "/version",
        "/metrics", "/v2/health/ready", "http://localhost/health"})
    BOOST_TEST(fetch(fixture.port(), "GET", path).status == 200, path);
  const auto missing = fetch(fixture.port(), "GET", "/v1/nothing");
  BOOST_TEST(missing.status == 404);
  BOOST_TEST(error_code_of(missing) == "not_found");
  BOOST_TEST(error_code_of(fetch(fixture.port(), "GET", "/v1/models/other")) == "model_not_found");
}

BOOST_AUTO_TEST_CASE(methods_are_those_of_the_route) {
  const server_fixture fixture;
  const auto refused = fetch(fixture.port(), "GET", chat);
  BOOST_TEST(refused.status == 405);
  BOOST_TEST(refused.headers.at("allow") == "POST, OPTIONS");
  BOOST_TEST(fetch(fixture.port(), "DELETE", "/v1/models").status == 405);
  BOOST_TEST(fetch(fixture.port(), "BREW", "/v1/models").status == 405);
  const auto options = fetch(fixture.port(), "OPTIONS", "/v1/models");
  BOOST_TEST(options.status == 204);
  BOOST_TEST(options.headers.at("allow") == "GET, HEAD, OPTIONS");
  raw_client client(fixture.port());
  client.send(request_text("HEAD", "/health"));
  const auto head = client.read_response(true);
  BOOST_TEST(head.headers.at("content-length") == "15");
  client.send(request_text("GET", "/health"));
  BOOST_TEST(client.read_response().body == R"({"status":"ok"})");
}

BOOST_AUTO_TEST_CASE(a_connection_serves_one_request_after_the_other) {
  const server_fixture fixture;
  raw_client client(fixture.port());
  for (int i = 0; i < 3; ++i) {
    client.send(request_text("POST", chat, chat_body("[say one]")));
    BOOST_TEST(content_of(client.read_response()) == "one");
  }
  // Sent ahead, answered in order.
  client.send(request_text("POST", chat, chat_body("[say a][delay 20]")) +
              request_text("POST", chat, chat_body("[say b]")) + request_text("GET", "/health"));
  BOOST_TEST(content_of(client.read_response()) == "a");
  BOOST_TEST(content_of(client.read_response()) == "b");
  BOOST_TEST(client.read_response().status == 200);
  client.send(request_text("GET", "/health", "", "Connection: close\r\n"));
  BOOST_TEST(client.read_response().headers.at("connection") == "close");
  BOOST_TEST(client.closed());
}

BOOST_AUTO_TEST_CASE(http_1_0_gets_an_answer_and_a_close) {
  const server_fixture fixture;
  raw_client client(fixture.port());
  const auto body = chat_body("[say hello]", "\"stream\":true");
  client.send(
      fmt::format("POST {} HTTP/1.0\r\nContent-Length: {}\r\n\r\n{}", chat, body.size(), body));
  const auto response = client.read_response();
  BOOST_TEST(response.status == 200);
  BOOST_TEST(response.headers.count("transfer-encoding") == 0u);
  BOOST_TEST(response.body.ends_with("data: [DONE]\n\n"));
}

BOOST_AUTO_TEST_CASE(large_bodies_are_asked_for) {
  const server_fixture fixture;
  const auto body = chat_body(std::string(100'000, 'a') + "[say ok]");
  raw_client client(fixture.port());
  client.send(fmt::format(
      "POST {} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n", chat,
      body.size()));
  BOOST_TEST(client.read_response().status == 100);
  client.send(body);
  BOOST_TEST(content_of(client.read_response()) == "ok");
  BOOST_TEST(fetch(fixture.port(), "POST", chat, "{}", "Expect: a-pony\r\n").status == 417);
}

BOOST_AUTO_TEST_CASE(request_ids_are_echoed) {
  const server_fixture fixture;
  BOOST_TEST(fetch(fixture.port(), "GET", "/live", "", "x-request-id: abc-1\r\n")
                 .headers.at("x-request-id") == "abc-1");
  BOOST_TEST(fetch(fixture.port(), "GET", "/live").headers.at("x-request-id").starts_with("req-"));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(hostile_heads)

http::server_options small_bodies() {
  http::server_options options;
  options.http.max_body_bytes = 100'000;
  return options;
}

/// For clients that never complete what they send: a slow machine must not make one of any other.
http::server_options hasty() {
  auto options = small_bodies();
  options.http.header_timeout = 150ms;
  options.idle_timeout = 150ms;
  return options;
}

/// What a hasty server answers to `bytes`, which complete no request. Where the machine was too
/// slow for even the first byte to come in time, the connection is closed without an answer: then
/// again.
raw_response hasty_answer(uint16_t port, const std::string& bytes) {
  raw_response answer;
  BOOST_TEST(soon([&] {
    raw_client client(port);
    client.send(bytes);
    answer = client.read_response();
    BOOST_TEST(client.closed());
    return answer.status != 0;
  }));
  return answer;
}

BOOST_AUTO_TEST_CASE(slow_heads_end_in_time) {
  const server_fixture fixture(hasty());
  std::optional<raw_client> dripping;
  std::string answer;  // comes although the head does not stop growing
  BOOST_TEST(soon([&] {
    if (!dripping || dripping->closed()) {  // as above
      dripping.emplace(fixture.port());
      dripping->patience = 10ms;
      dripping->send("GET /health HTTP/1.1\r\nHost: a\r\nX: ");
    }
    dripping->send("x");
    answer = dripping->read_until("\r\n\r\n");
    return !answer.empty();
  }));
  BOOST_TEST(answer.starts_with("HTTP/1.1 408"));
  raw_client silent(fixture.port());
  BOOST_TEST(silent.closed());
}

BOOST_AUTO_TEST_CASE(silent_connections_make_place) {
  auto options = http::server_options{};
  options.http.max_connections = 20;
  options.address_share = 1;
  const server_fixture fixture(options);
  std::vector<std::unique_ptr<raw_client>> silent;
  for (int i = 0; i < 100; ++i) silent.push_back(std::make_unique<raw_client>(fixture.port()));
  for (int i = 0; i < 10; ++i) BOOST_TEST(fetch(fixture.port(), "GET", "/health").status == 200);
  BOOST_TEST(silent.front()->closed());
}

BOOST_AUTO_TEST_CASE(one_address_cannot_take_all) {
  auto options = http::server_options{};
  options.http.max_connections = 8;
  options.address_share = 0.5;
  const server_fixture fixture(options);
  std::vector<std::unique_ptr<raw_client>> held;
  for (int i = 0; i < 4; ++i) {
    held.push_back(std::make_unique<raw_client>(fixture.port()));
    held.back()->send(request_text("POST", chat, chat_body("[silent]")));
  }
  BOOST_TEST(soon([&] { return fixture.engine->running == 4; }));
  raw_client refused(fixture.port());
  BOOST_TEST(refused.closed());
  held.clear();
  BOOST_TEST(soon([&] { return fixture.engine->running == 0; }));
  BOOST_TEST(soon([&] { return fetch(fixture.port(), "GET", "/health").status == 200; }));
}

BOOST_AUTO_TEST_CASE(long_heads_are_refused) {
  const server_fixture fixture;
  raw_client one(fixture.port());
  one.send("GET /health HTTP/1.1\r\nHost: a\r\nX: " + std::string(100'000, 'x'));
  BOOST_TEST(one.read_response().status == 431);
  raw_client many(fixture.port());
  std::string head = "GET /health HTTP/1.1\r\nHost: a\r\n";
  for (int i = 0; i < 10'000; ++i) head += fmt::format("X{}: 1\r\n", i);
  many.send(head + "\r\n");
  BOOST_TEST(many.read_response().status == 431);
}

BOOST_AUTO_TEST_CASE(malformed_and_ambiguous_heads_are_refused_and_closed) {
  const server_fixture fixture;
  const std::string body = chat_body("hi");
  const auto length = fmt::format("Content-Length: {}\r\n", body.size());
  const std::vector<std::string> heads{
      "nonsense\r\n\r\n",
      "GET /health HTTP/1.1\r\n\r\n",
      "GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
      "GET /health HTTP/1.1\r\nHost: a/b@c\r\n\r\n",
      "GET /health HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer x\r\nAuthorization: Bearer "
      "y\r\n\r\n",
      "GET health HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /%0a HTTP/1.1\r\nHost: a\r\n\r\n",
      "GET /health HTTP/9.9\r\nHost: a\r\n\r\n",
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + length +
          "Transfer-Encoding: chunked\r\n\r\n" + body,
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n" + length +
          "\r\n" + body,
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\n" + length + "Content-Length: 3\r\n\r\n" +
          body,
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 1e3\r\n\r\n",
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: "
      "99999999999999999999\r\n\r\n",
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
  };
  for (const auto& head : heads) {
    raw_client client(fixture.port());
    client.send(head);
    const auto response = client.read_response();
    BOOST_TEST_INFO(head.substr(0, 120));
    BOOST_TEST((response.status == 400 || response.status == 505));
    BOOST_TEST(!error_code_of(response).empty());
    BOOST_TEST_INFO(head.substr(0, 120));
    BOOST_TEST(client.closed());
  }
  BOOST_TEST(fetch(fixture.port(), "POST", chat, body, "Content-Encoding: gzip\r\n").status == 415);
}

BOOST_AUTO_TEST_CASE(hostile_chunks) {
  const server_fixture fixture(small_bodies());
  const std::string head =
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const auto* size : {"-2", "10000000000000000", "ffffffffffffffffff", "zz", ""}) {
    raw_client client(fixture.port());
    client.send(head + size + "\r\nabc\r\n");
    const auto response = client.read_response();
    BOOST_TEST_INFO(size << ": " << response.status);
    BOOST_TEST((response.status == 400 || response.status == 413));
    BOOST_TEST(client.closed());
  }
  raw_client huge(fixture.port());
  huge.send(head + fmt::format("{:x}\r\n{}", 200'000, std::string(200'000, 'a')));
  BOOST_TEST(huge.read_response().status == 413);
}

BOOST_AUTO_TEST_CASE(chunks_without_an_end_are_not_waited_for) {
  const server_fixture fixture(hasty());
  // "0x10" reads as the last chunk with junk behind it, and waits for the trailer's end.
  for (const auto* chunks : {"3\r\nabc\r\n", "0x10\r\nabc\r\n"})
    BOOST_TEST(hasty_answer(fixture.port(),
                            "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "
                            "chunked\r\n\r\n" +
                                std::string(chunks))
                   .status == 408);
}

BOOST_AUTO_TEST_CASE(a_body_of_one_byte_chunks_is_read) {
  const server_fixture fixture;
  std::string body = chat_body(std::string(300'000, 'a') + "[say ok]");
  std::string chunks;
  for (const char c : body) chunks += fmt::format("1\r\n{}\r\n", c);
  raw_client client(fixture.port());
  client.send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" +
      chunks + "0\r\n\r\n");
  BOOST_TEST(content_of(client.read_response()) == "ok");
}

BOOST_AUTO_TEST_CASE(bodies_over_the_limit_are_refused_unread) {
  const server_fixture fixture(small_bodies());
  raw_client client(fixture.port());
  client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 100001\r\n\r\n");
  const auto response = client.read_response();
  BOOST_TEST(response.status == 413);
  BOOST_TEST(response.body.find("100000") != std::string::npos);
}

BOOST_AUTO_TEST_CASE(bodies_that_do_not_come_are_not_waited_for) {
  const server_fixture fixture(hasty());
  const std::string begun =
      "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n{\"";
  BOOST_TEST(hasty_answer(fixture.port(), begun).status == 408);
}

BOOST_AUTO_TEST_CASE(all_bodies_together_have_a_budget) {
  auto options = http::server_options{};
  options.http.max_body_bytes = 10'000;
  options.body_budget_bodies = 2;
  options.http.header_timeout = 1h;  // an upload holds its share until it leaves
  const server_fixture fixture(options);
  std::vector<std::unique_ptr<raw_client>> uploading;
  for (int i = 0; i < 2; ++i) {
    uploading.push_back(std::make_unique<raw_client>(fixture.port()));
    uploading.back()->send(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10000\r\n\r\n{");
  }
  BOOST_TEST(
      soon([&] { return fetch(fixture.port(), "POST", chat, chat_body("hi")).status == 503; }));
  uploading.clear();
  BOOST_TEST(
      soon([&] { return fetch(fixture.port(), "POST", chat, chat_body("hi")).status == 200; }));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(authentication)

BOOST_AUTO_TEST_CASE(every_route_but_the_probes_needs_the_key) {
  http::server_options options;
  options.http.api_keys = {"secret-1", "secret-2"};
  const server_fixture fixture(options);
  const std::vector<std::string> wrong{"",
                                       "Authorization: Bearer secret\r\n",
                                       "Authorization: Basic secret-1\r\n",
                                       "x-api-key: secret-1\r\n",
                                       "REMOTE_ADDR: 127.0.0.1\r\n",
                                       "X-Forwarded-For: 127.0.0.1\r\n"};
  for (const auto& headers : wrong) {
    for (const auto* path : {"/v1/models", "/v1/models/fake", "/metrics", "/version", "/nothing"}) {
      const auto refused = fetch(fixture.port(), "GET", path, "", headers);
      BOOST_TEST(refused.status == 401, path);
      BOOST_TEST(refused.headers.at("www-authenticate") == "Bearer");
    }
    for (const auto* path : {chat, "/v1/completions", "/tokenize", "/detokenize", "/health"})
      BOOST_TEST(fetch(fixture.port(), "POST", path, chat_body("hi"), headers).status ==
                     (std::string_view(path) == "/health" ? 405 : 401),
                 path);
    for (const auto* path : {"/health", "/live", "/ready"})
      BOOST_TEST(fetch(fixture.port(), "GET", path, "", headers).status == 200);
  }
  BOOST_TEST(fixture.engine->submitted == 0);
  for (const auto* key : {"secret-1", "secret-2"})
    BOOST_TEST(fetch(fixture.port(), "GET", "/v1/models", "",
                     fmt::format("Authorization: Bearer {}\r\n", key))
                   .status == 200);
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(states_of_the_engine)

BOOST_AUTO_TEST_CASE(the_port_is_open_while_loading) {
  server_fixture fixture({}, false);
  BOOST_TEST(fetch(fixture.port(), "GET", "/live").status == 200);
  BOOST_TEST(fetch(fixture.port(), "GET", "/health").status == 503);
  fixture.engine->phase = actors::engine_phase::loading;
  fixture.server->attach(fixture.gateway, fake_model());
  BOOST_TEST(soon([&] {
    return fetch(fixture.port(), "GET", "/health").body.find("\"percent\":43.0") !=
           std::string::npos;
  }));
  const auto health = fetch(fixture.port(), "GET", "/health");
  BOOST_TEST(health.body.starts_with(
      R"({"error":{"code":503,"message":"Loading model","type":"unavailable_error"},)"
      R"("phase":"loading weights")"));
  const auto refused = fetch(fixture.port(), "POST", chat, chat_body("hi"));
  BOOST_TEST(refused.status == 503);
  BOOST_TEST(error_code_of(refused) == "loading");
  BOOST_TEST(refused.headers.count("retry-after") == 1u);
  fixture.engine->phase = actors::engine_phase::ready;
  BOOST_TEST(fetch(fixture.port(), "GET", "/health").status == 200);
  BOOST_TEST(fetch(fixture.port(), "POST", chat, chat_body("hi")).status == 200);
}

BOOST_AUTO_TEST_CASE(an_engine_that_ends_ends_its_requests) {
  server_fixture fixture;
  raw_client client(fixture.port());
  client.send(request_text("POST", chat, chat_body("[silent]")));
  BOOST_TEST(soon([&] { return fixture.engine->running == 1; }));
  caf::anon_send_exit(fixture.gateway, caf::exit_reason::kill);
  BOOST_TEST(client.read_response().status == 500);
  BOOST_TEST(fetch(fixture.port(), "GET", "/health").status == 503);
  BOOST_TEST(fetch(fixture.port(), "POST", chat, chat_body("hi")).status == 503);
}

BOOST_AUTO_TEST_CASE(a_drain_lets_running_requests_finish_and_refuses_new_ones) {
  server_fixture fixture;
  raw_client running(fixture.port()), idle(fixture.port());
  idle.send(request_text("GET", "/live"));
  BOOST_TEST(idle.read_response().status == 200);
  running.send(request_text("POST", chat, chat_body("[say 0123456789][hold]", "\"stream\":true")));
  running.read_until("assistant");
  std::thread stopping([&] { fixture.server->stop(60s); });
  BOOST_TEST(idle.closed());
  BOOST_TEST(fetch(fixture.port(), "GET", "/health").status == 503);
  BOOST_TEST(error_code_of(fetch(fixture.port(), "POST", chat, chat_body("hi"))) == "draining");
  fixture.engine->released = true;
  const auto response = running.read_response();
  BOOST_TEST(response.complete);
  BOOST_TEST(response.body.ends_with("data: [DONE]\n\n"));
  BOOST_TEST(response.body.find("error") == std::string::npos);
  stopping.join();
  BOOST_TEST(running.closed());
}

BOOST_AUTO_TEST_CASE(what_outlasts_the_grace_ends_with_an_error) {
  server_fixture fixture;
  raw_client streaming(fixture.port()), waiting(fixture.port());
  streaming.send(request_text(
      "POST", chat,
      chat_body("[delay 30]", R"("stream":true,"max_tokens":4000,"ignore_eos":true)")));
  waiting.send(request_text("POST", chat, chat_body("[silent]")));
  streaming.read_until("assistant");
  BOOST_TEST(soon([&] { return fixture.engine->running == 2; }));
  fixture.server->stop(50ms);
  const auto stream = streaming.read_response();
  BOOST_TEST(stream.complete);
  BOOST_TEST(stream.body.find(R"("code":"draining"}})") != std::string::npos);
  BOOST_TEST(stream.body.ends_with("data: [DONE]\n\n"));
  BOOST_TEST(waiting.read_response().status == 503);
  BOOST_TEST(soon([&] { return fixture.engine->running == 0; }));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(answers)

BOOST_AUTO_TEST_CASE(refusals_of_the_engine_keep_their_status_in_streams_too) {
  http::server_options options;
  options.stream_head_delay = 1h;  // however late the refusal comes
  const server_fixture fixture(options);
  for (const auto* stream : {"false", "true"}) {
    const auto response =
        fetch(fixture.port(), "POST", chat,
              chat_body("[reject 429]", fmt::format("\"stream\":{},\"n\":3", stream)));
    BOOST_TEST(response.status == 429);
    BOOST_TEST(response.reason == "Too Many Requests (queue_full)");
    BOOST_TEST(response.headers.at("retry-after") == "2");
    BOOST_TEST(response.headers.at("retry-after-ms") == "1500");
    BOOST_TEST(error_code_of(response) == "queue_full");
  }
  BOOST_TEST(fixture.engine->running == 0);
}

BOOST_AUTO_TEST_CASE(a_failure_inside_a_stream_is_its_last_frame) {
  const server_fixture fixture;
  const auto whole = fetch(fixture.port(), "POST", chat, chat_body("[say abc][fail 500]"));
  BOOST_TEST(whole.status == 500);
  raw_client client(fixture.port());
  client.send(
      request_text("POST", chat, chat_body("[say abc][fail 500][delay 30]", "\"stream\":true")));
  const auto stream = client.read_response();
  BOOST_TEST(stream.status == 200);
  BOOST_TEST(
      stream.body.ends_with("data: {\"error\":{\"message\":\"the shard was "
                            "lost\",\"type\":\"server_error\",\"param\":null,"
                            "\"code\":\"engine_error\"}}\n\ndata: [DONE]\n\n"));
  BOOST_TEST(client.closed());
}

BOOST_AUTO_TEST_CASE(a_quiet_stream_sends_its_head_and_pings) {
  http::server_options options;
  options.stream_head_delay = 50ms;
  options.http.ping_interval = 50ms;
  const server_fixture fixture(options);
  raw_client client(fixture.port());
  client.send(request_text("POST", chat, chat_body("[silent]", "\"stream\":true")));
  const std::string ping = "8\r\n: ping\n\n\r\n";
  const auto text = client.read_until(ping + ping + ping);
  BOOST_TEST(text.ends_with(ping));
  BOOST_TEST(text.find("Content-Type: text/event-stream; charset=utf-8\r\n") != std::string::npos);
  BOOST_TEST(text.find("X-Accel-Buffering: no\r\n") != std::string::npos);
  BOOST_TEST(text.find("Content-Length") == std::string::npos);
  BOOST_TEST(text.find("data:") == std::string::npos);
}

BOOST_AUTO_TEST_CASE(characters_are_never_cut) {
  const server_fixture fixture;
  const auto response =
      fetch(fixture.port(), "POST", chat, chat_body("[say Zürich 東京 😀]", "\"stream\":true"));
  BOOST_TEST(response.body.find("\xEF\xBF\xBD") == std::string::npos);
  std::string text;
  for (size_t at = 0; (at = response.body.find("data: {", at)) != std::string::npos; ++at) {
    const auto frame =
        config::parse_json(response.body.substr(at + 6, response.body.find("\n\n", at) - at - 6));
    if (const auto content = frame.find("choices")->elements().at(0).find("delta")->find("content"))
      text += *content->string();
  }
  BOOST_TEST(text == "Zürich 東京 😀");
}

BOOST_AUTO_TEST_CASE(many_streams_at_once_stay_apart) {
  const server_fixture fixture;
  std::vector<std::unique_ptr<raw_client>> clients;
  for (int i = 0; i < 100; ++i) {
    clients.push_back(std::make_unique<raw_client>(fixture.port()));
    clients.back()->send(request_text(
        "POST", chat,
        chat_body(fmt::format("[say <{:03}>][repeat 20][delay 1]", i), "\"stream\":true")));
  }
  for (int i = 0; i < 100; ++i) {
    const auto response = clients[static_cast<size_t>(i)]->read_response();
    BOOST_REQUIRE(response.complete);
    BOOST_TEST(response.body.ends_with("data: [DONE]\n\n"));
    std::string digits;
    for (size_t at = 0; (at = response.body.find("\"content\":\"", at)) != std::string::npos;
         at += 11)
      digits += response.body.substr(at + 11, response.body.find('"', at + 11) - at - 11);
    std::string expected;
    for (int k = 0; k < 20; ++k) expected += fmt::format("<{:03}>", i);
    BOOST_TEST(digits == expected);
  }
}

BOOST_AUTO_TEST_CASE(tokens_in_and_out) {
  const server_fixture fixture;
  BOOST_TEST(
      fetch(fixture.port(), "POST", "/tokenize", R"({"prompt":"ab","return_token_strs":true})")
          .body == R"({"count":2,"max_model_len":4096,"tokens":[97,98],"token_strs":["a","b"]})");
  BOOST_TEST(fetch(fixture.port(), "POST", "/tokenize", R"({"content":"a"})").body ==
             R"({"count":1,"max_model_len":4096,"tokens":[97]})");
  BOOST_TEST(fetch(fixture.port(), "POST", "/tokenize", chat_body("xy")).body ==
             R"({"count":2,"max_model_len":4096,"tokens":[120,121]})");
  BOOST_TEST(fetch(fixture.port(), "POST", "/detokenize", R"({"tokens":[104,105]})").body ==
             R"({"prompt":"hi","content":"hi"})");
  BOOST_TEST(fetch(fixture.port(), "POST", "/detokenize", R"({"tokens":[256]})").status == 400);
  BOOST_TEST(fetch(fixture.port(), "POST", "/tokenize", "{}").status == 400);
}

BOOST_AUTO_TEST_CASE(a_large_picture_arrives_whole) {
  const server_fixture fixture;
  const auto url = fixture_data_url("000.png");
  const auto body = fmt::format(
      R"({{"messages":[{{"role":"user","content":[{{"type":"image_url","image_url":{{"url":"{}"}}}},)"
      R"({{"type":"text","text":"{}"}}]}}]}})",
      url, std::string(2'000'000, 'a'));
  const auto response = fetch(fixture.port(), "POST", chat, body);
  BOOST_TEST(content_of(response).starts_with("I see 1 media and 2000000 bytes"));
  const auto usage = *config::parse_json(response.body).find("usage");
  BOOST_TEST(*usage.find("prompt_tokens_details")->find("image_tokens")->integer() > 0);
}

BOOST_AUTO_TEST_CASE(metrics_count_what_happened) {
  const server_fixture fixture;
  fetch(fixture.port(), "POST", chat, chat_body("[say abcd]"));
  fetch(fixture.port(), "POST", chat, chat_body("[say abcd]", "\"temprature\":1"));
  fetch(fixture.port(), "POST", chat, "{}");
  const auto page = fetch(fixture.port(), "GET", "/metrics");
  BOOST_TEST(page.headers.at("content-type") == "text/plain; version=0.0.4; charset=utf-8");
  for (const auto* line :
       {"troupe_generation_tokens_total{model_name=\"fake\"} 8\n",
        "vllm:generation_tokens_total{model_name=\"fake\"} 8\n",
        "troupe_request_success_total{model_name=\"fake\",finished_reason=\"stop\"} 2\n",
        "troupe_time_to_first_token_seconds_count{model_name=\"fake\"} 2\n",
        "troupe_inter_token_latency_seconds_count{model_name=\"fake\"} 6\n",
        "troupe_kv_cache_usage_ratio{model_name=\"fake\"} 0.25\n",
        "troupe_unknown_request_fields_total{model_name=\"fake\"} 1\n",
        "troupe_http_requests_total{model_name=\"fake\",method=\"POST\",status=\"200\",handler=\"/"
        "chat/completions\"} 2\n",
        "troupe_http_requests_total{model_name=\"fake\",method=\"POST\",status=\"400\",handler=\"/"
        "chat/completions\"} 1\n",
        "# TYPE troupe_inter_token_latency_seconds histogram\n", "process_resident_memory_bytes "})
    BOOST_TEST(page.body.find(line) != std::string::npos, line);
}

BOOST_AUTO_TEST_CASE(unseeded_requests_differ_and_seeded_ones_do_not) {
  const server_fixture fixture;
  const auto sample = [&](const std::string& fields) {
    return content_of(fetch(fixture.port(), "POST", chat, chat_body("[random]", fields)));
  };
  BOOST_TEST(sample("") != sample(""));
  BOOST_TEST(sample("\"seed\":5") == sample("\"seed\":5"));
  BOOST_TEST(sample("\"seed\":5") != sample("\"seed\":6"));
}

BOOST_AUTO_TEST_SUITE_END()

BOOST_AUTO_TEST_SUITE(departures)

/// Notices by nothing but the departure itself: not because a ping or an answer cannot be written.
http::server_options unhurried() {
  http::server_options options;
  options.http.ping_interval = 1h;
  options.http.stalled_client_timeout = 1h;
  return options;
}

BOOST_AUTO_TEST_CASE(a_client_that_leaves_frees_its_request) {
  const server_fixture fixture(unhurried());
  struct shape {
    const char* fields;
    int32_t choices;
  };
  int32_t cancelled = 0;
  for (const bool abruptly : {false, true})
    for (const auto* script : {"[silent]", "[hold]", "[delay 20][repeat 1000]"})
      for (const auto& [fields, choices] :
           {shape{"\"stream\":true", 1}, {"\"stream\":false", 1}, {R"("stream":true,"n":4)", 4}}) {
        raw_client client(fixture.port());
        client.send(request_text("POST", chat, chat_body(script, fields)));
        BOOST_TEST(soon([&] { return fixture.engine->running == choices; }));
        client.leave(abruptly);
        BOOST_TEST(soon([&] { return fixture.engine->running == 0; }));
        BOOST_TEST(fixture.engine->cancelled == (cancelled += choices));
      }
}

BOOST_AUTO_TEST_CASE(a_client_that_sent_ahead_and_leaves_is_noticed) {
  const server_fixture fixture(unhurried());
  raw_client client(fixture.port());
  client.send(request_text("POST", chat, chat_body("[silent]")) + request_text("GET", "/health"));
  BOOST_TEST(soon([&] { return fixture.engine->running == 1; }));
  client.leave();
  BOOST_TEST(soon([&] { return fixture.engine->running == 0; }));
}

BOOST_AUTO_TEST_CASE(a_client_that_does_not_read_ends_itself_alone) {
  http::server_options options;
  options.http.stalled_client_timeout = 300ms;
  const server_fixture fixture(options);
  raw_client canary(fixture.port());
  canary.send(request_text("POST", chat,
                           chat_body("[say 0123456789][repeat 20][hold]", "\"stream\":true")));
  raw_client deaf(fixture.port(), 4'096);
  deaf.send(request_text(
      "POST", chat, chat_body("[say 0123456789][repeat 300000][burst 20]", "\"stream\":true")));
  BOOST_TEST(soon([&] { return fixture.engine->submitted == 2; }));
  BOOST_TEST(fetch(fixture.port(), "POST", chat, chat_body("hi")).status == 200);
  BOOST_TEST(soon([&] { return fixture.engine->cancelled == 1; }));
  fixture.engine->released = true;
  const auto alive = canary.read_response();
  BOOST_TEST(alive.complete);
  BOOST_TEST(alive.body.ends_with("data: [DONE]\n\n"));
  const auto page = fetch(fixture.port(), "GET", "/metrics").body;
  BOOST_TEST(page.find("troupe_request_stalled_total{model_name=\"fake\"} 0\n") ==
             std::string::npos);
}

BOOST_AUTO_TEST_CASE(a_client_that_stops_reading_pauses_its_request_until_it_reads_on) {
  const server_fixture fixture(unhurried());
  raw_client napping(fixture.port(), 4'096);
  napping.send(request_text(
      "POST", chat, chat_body("[say 0123456789][repeat 90000][burst 500]", "\"stream\":true")));
  BOOST_TEST(soon([&] { return fixture.engine->paused == 1; }));
  // The engine's others go on.
  BOOST_TEST(fetch(fixture.port(), "POST", chat, chat_body("hi")).status == 200);
  BOOST_TEST(fixture.engine->paused == 1);
  const auto response = napping.read_response();
  BOOST_TEST(response.complete);
  BOOST_TEST(response.body.ends_with("data: [DONE]\n\n"));
  BOOST_TEST(response.body.find("client_too_slow") == std::string::npos);
  BOOST_TEST(fixture.engine->paused == 0);
  BOOST_TEST(fixture.engine->cancelled == 0);
}

BOOST_AUTO_TEST_CASE(a_slow_reader_gets_everything) {
  const server_fixture fixture(unhurried());
  raw_client slow(fixture.port(), 4'096);
  slow.send(request_text("POST", chat,
                         chat_body("[say 0123456789][repeat 3000][burst 50]", "\"stream\":true")));
  std::this_thread::sleep_for(300ms);
  const auto response = slow.read_response();
  BOOST_TEST(response.complete);
  BOOST_TEST(response.body.ends_with("data: [DONE]\n\n"));
  BOOST_TEST(count(response.body, "finish_reason\":\"stop\"") == 1u);
}

BOOST_AUTO_TEST_SUITE_END()

}  // namespace
}  // namespace troupe::tests
