#pragma once

#include "config/engine_config.hpp"

#include <chrono>
#include <cstdint>

namespace troupe::http {

/// The settings of a server: those of the configuration file, and those that nobody needed to
/// change yet.
struct server_options {
  config::engine_config::http_settings http;
  // What the engine promises per request; the server waits a little longer, then gives up on it.
  std::chrono::milliseconds request_deadline{600'000};
  std::chrono::milliseconds idle_timeout{75'000};  // of a kept-alive connection between requests
  // A stream's head waits this long for a refusal, which needs a status of its own.
  std::chrono::milliseconds stream_head_delay{1'000};
  // One address may take this share of all connections: the rest stays for others.
  double address_share = 0.75;
  // Bodies held at one time, in units of the largest allowed body.
  int64_t body_budget_bodies = 8;
  bool vllm_metric_names = true;  // each metric that vLLM's dashboards know, also under their name
};

}  // namespace troupe::http
