#include "actors/cli/bench.hpp"
#include "actors/cli/elapsed.hpp"
#include "actors/cli/local_engine.hpp"
#include "actors/cli/served_engine.hpp"
#include "actors/cli/settings.hpp"

#include <boost/asio/ip/tcp.hpp>
#include <utility>

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <CLI/CLI.hpp>

#include <chrono>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::seconds silence_max{60};

struct serve_bench_options {
  setting_options settings;
  std::vector<int32_t> clients{1, 8, 32};
  double seconds = 10;
  int32_t max_tokens = 32;
};

/// What one client saw, in seconds.
struct client_times {
  std::vector<double> first_token;
  std::vector<double> inter_token;
  int64_t requests = 0;
};

std::string request_text(const serve_bench_options& options, uint16_t port, int64_t number) {
  const std::string body = fmt::format(
      R"({{"messages":[{{"role":"user","content":"Count from {} to 99."}}],"stream":true,)"
      R"("temperature":0,"ignore_eos":true,"max_tokens":{}}})",
      10 + number % 80, options.max_tokens);
  return fmt::format(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: "
      "application/json\r\n"
      "Connection: close\r\nContent-Length: {}\r\n\r\n{}",
      port, body.size(), body);
}

/// One streamed request over a connection of its own; every chunk with text counts as one token.
void run_request(const serve_bench_options& options, uint16_t port, int64_t number,
                 client_times& times) {
  boost::asio::ip::tcp::iostream stream;
  stream.expires_after(silence_max);
  const auto begin = clock::now();
  stream.connect(boost::asio::ip::tcp::endpoint(boost::asio::ip::address_v4::loopback(), port));
  stream << request_text(options, port, number) << std::flush;

  auto last = begin;
  bool first = true, done = false;
  for (std::string line; !done && std::getline(stream, line);) {
    done = line.starts_with("data: [DONE]");
    if (done || !line.starts_with("data: ") || line.find("\"content\":") == std::string::npos)
      continue;
    const auto now = clock::now();
    (first ? times.first_token : times.inter_token).push_back(seconds_between(last, now));
    first = false;
    last = now;
  }
  if (!done)
    throw std::runtime_error(
        fmt::format("a benchmark's stream broke off: {}", stream.error().message()));
  ++times.requests;
}

void append(std::vector<double>& to, const std::vector<double>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

/// All clients together, each sending its next request as soon as the last one ended.
void measure(const serve_bench_options& options, uint16_t port, int32_t num_clients) {
  std::mutex guard;
  client_times all;
  std::string problem;
  const auto begin = clock::now();
  std::vector<std::thread> clients;
  for (int32_t client = 0; client < num_clients; ++client)
    clients.emplace_back([&, client] {
      client_times mine;
      std::string failure;
      try {
        while (seconds_since(begin) < options.seconds)
          run_request(options, port, client * 31 + mine.requests, mine);
      } catch (const std::exception& caught) {
        failure = caught.what();
      }
      const std::lock_guard lock(guard);
      append(all.first_token, mine.first_token);
      append(all.inter_token, mine.inter_token);
      all.requests += mine.requests;
      if (!failure.empty()) problem = failure;
    });
  for (auto& client : clients) client.join();
  if (!problem.empty()) throw std::runtime_error(problem);

  const double seconds = seconds_since(begin);
  const double tokens = static_cast<double>(all.first_token.size() + all.inter_token.size());
  print_row({fmt::format("{} clients, {} tokens each", num_clients, options.max_tokens),
             fmt::format("{:.1f} requests/s, {:.0f} tokens/s",
                         static_cast<double>(all.requests) / seconds, tokens / seconds),
             "", 0});
  print_row({"  first token",
             fmt::format("p50 {:.1f} ms, p99 {:.1f} ms", 1e3 * quantile(all.first_token, 0.5),
                         1e3 * quantile(all.first_token, 0.99)),
             "", 0});
  print_row({"  between tokens",
             fmt::format("p50 {:.2f} ms, p99 {:.2f} ms", 1e3 * quantile(all.inter_token, 0.5),
                         1e3 * quantile(all.inter_token, 0.99)),
             "", 0});
}

int bench_serve(const serve_bench_options& options) {
  auto config = options.settings.load().value;
  config.http.port = 0;
  config.http.api_keys.clear();
  apply_log_level(config, /*quiet=*/true);
  served_engine engine(config);
  engine.wait_ready();
  for (const int32_t clients : options.clients) measure(options, engine.port(), clients);
  engine.stop(std::chrono::seconds(5));
  return 0;
}

}  // namespace

void add_bench_serve(CLI::App& bench, action& chosen) {
  auto* command =
      bench.add_subcommand("serve", "Requests/s and latencies of a checkpoint, over HTTP");
  auto options = std::make_shared<serve_bench_options>();
  options->settings.add_to(*command);
  command->add_option("--clients", options->clients, "numbers of clients, one round each")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "length of a round")
      ->check(CLI::PositiveNumber);
  command->add_option("--max-tokens", options->max_tokens, "tokens per request")
      ->check(CLI::PositiveNumber);
  command->callback([&chosen, options] { chosen = [options] { return bench_serve(*options); }; });
}

}  // namespace troupe::cli
