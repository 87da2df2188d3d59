#include "actors/http/routes.hpp"

#include "actors/http/handlers.hpp"

#include <array>

namespace troupe::http {

namespace {

constexpr bool open = false;
constexpr bool keyed = true;

/// Paths are canonical: each also answers under /v1 and with a trailing slash.
constexpr std::array routes{
    route{"/chat/completions", "POST", keyed, complete_chat},
    route{"/completions", "POST", keyed, complete_text},
    route{"/models", "GET", keyed, list_models},
    route{"/models/*", "GET", keyed, describe_model},
    route{"/tokenize", "POST", keyed, tokenize},
    route{"/detokenize", "POST", keyed, detokenize},
    route{"/metrics", "GET", keyed, report_metrics},
    route{"/version", "GET", keyed, report_version},
    route{"/health", "GET", open, report_ready},
    route{"/ready", "GET", open, report_ready},
    route{"/readyz", "GET", open, report_ready},
    route{"/v2/health/ready", "GET", open, report_ready},
    route{"/startup", "GET", open, report_started},
    route{"/live", "GET", open, report_alive},
    route{"/livez", "GET", open, report_alive},
    route{"/v2/health/live", "GET", open, report_alive},
};

bool matches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with('*')) return path == pattern;
  pattern.remove_suffix(1);
  return path.size() > pattern.size() && path.starts_with(pattern);
}

}  // namespace

const route* find_route(std::string_view path) {
  for (const auto& each : routes)
    if (matches(each.path, path)) return &each;
  return nullptr;
}

std::string allowed_methods(const route& route) {
  return route.method == "GET" ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
}

}  // namespace troupe::http
