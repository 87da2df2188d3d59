#include "actors/http/generation_options.hpp"
#include "actors/http/handlers.hpp"
#include "actors/http/json_text.hpp"

#include <fmt/format.h>

#include <chrono>
#include <cmath>

namespace troupe::http {

namespace {

namespace asio = boost::asio;
using actors::engine_phase;
using actors::engine_status;

api_error unavailable(std::string_view code, std::string message) {
  return engine_fault(503, code, std::move(message), 1'000);
}

load_progress progress_of(const engine_status& status,
                          std::chrono::steady_clock::time_point started) {
  load_progress progress;
  progress.phase = status.detail.empty() ? "loading" : status.detail;
  progress.percent = status.percent;
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - started;
  if (status.percent >= 1)
    progress.eta_seconds = std::llround(taken.count() * (100 - status.percent) / status.percent);
  return progress;
}

std::optional<api_error> fault_of(const engine_status& status,
                                  std::chrono::steady_clock::time_point started) {
  switch (status.phase) {
    case engine_phase::ready:
      return std::nullopt;
    case engine_phase::draining:
      return unavailable("draining", "the server is shutting down");
    case engine_phase::failed:
      return unavailable("engine_failed", "the engine could not start");
    case engine_phase::loading:
      break;
  }
  auto error = unavailable("loading", "Loading model");
  error.progress = progress_of(status, started);
  return error;
}

/// As the engine is now, never from memory.
asio::awaitable<std::optional<api_error>> current_fault(server_context& context) {
  if (context.draining) co_return unavailable("draining", "the server is shutting down");
  if (!context.model) co_return fault_of({}, context.started);
  if (!context.link.alive()) co_return unavailable("engine_lost", "the engine has ended");
  const auto status = co_await context.link.status();
  if (!status) co_return unavailable("engine_silent", "the engine does not answer");
  auto fault = fault_of(*status, context.started);
  context.engine_was_ready = !fault;
  co_return fault;
}

/// The body that load balancers know from other servers: the code is the status.
http_response probe_response(const std::optional<api_error>& fault) {
  if (!fault) return json_response(R"({"status":"ok"})");
  auto response = error_response(*fault);
  response.body = R"({"error":{"code":503,"message":)";
  append_text(response.body, fault->message);
  response.body += R"(,"type":"unavailable_error"})";
  if (fault->progress) {
    response.body += R"(,"phase":)";
    append_text(response.body, fault->progress->phase);
    response.body += fmt::format(R"(,"percent":{:.1f})", fault->progress->percent);
  }
  response.body += '}';
  return response;
}

void append_model(std::string& out, const served_model& model, std::string_view name,
                  int64_t created) {
  out += R"({"id":)";
  append_text(out, name);
  out += fmt::format(R"(,"object":"model","created":{},"owned_by":"troupe","root":)", created);
  append_text(out, model.root);
  out += fmt::format(R"(,"parent":null,"max_model_len":{},)", model.limits.max_model_len);
  out += R"("architecture":{"input_modalities":["text","image","video"],)"
         R"("output_modalities":["text"]}})";
}

int64_t start_time(const server_context& context) {
  const auto age = std::chrono::steady_clock::now() - context.started;
  const auto start = std::chrono::system_clock::now() - age;
  return std::chrono::duration_cast<std::chrono::seconds>(start.time_since_epoch()).count();
}

}  // namespace

asio::awaitable<std::optional<api_error>> not_ready(server_context& context) {
  const bool known_ready = context.engine_was_ready && context.link.alive() && !context.draining;
  if (known_ready) co_return std::nullopt;
  co_return co_await current_fault(context);
}

asio::awaitable<void> report_ready(exchange x) {
  const auto fault = co_await current_fault(x.context);
  co_await x.client.reply(x.request, probe_response(fault));
}

asio::awaitable<void> report_started(exchange x) {
  const auto fault = co_await not_ready(x.context);
  const bool loading = fault && fault->code == "loading";
  co_await x.client.reply(x.request, probe_response(loading ? fault : std::nullopt));
}

asio::awaitable<void> report_alive(exchange x) {
  co_await x.client.reply(x.request, probe_response(std::nullopt));
}

asio::awaitable<void> report_metrics(exchange x) {
  const auto status = co_await x.context.link.status();
  const auto& model = x.context.model;
  http_response page;
  page.content_type = "text/plain; version=0.0.4; charset=utf-8";
  page.body = x.context.metrics.text(status.value_or(engine_status{}),
                                     model ? model->limits.served_names.front() : "",
                                     model ? model->block_size : 0, x.context.connections.size(),
                                     x.context.options.vllm_metric_names);
  co_await x.client.reply(x.request, std::move(page));
}

asio::awaitable<void> report_version(exchange x) {
  co_await x.client.reply(x.request, json_response(R"({"version":")" TROUPE_VERSION R"("})"));
}

asio::awaitable<void> list_models(exchange x) {
  if (const auto fault = co_await not_ready(x.context)) {
    co_await x.client.reply(x.request, error_response(*fault));
    co_return;
  }
  const auto& model = *x.context.model;
  std::string body = R"({"object":"list","data":[)";
  for (const auto& name : model.limits.served_names) {
    if (!body.ends_with('[')) body += ',';
    append_model(body, model, name, start_time(x.context));
  }
  co_await x.client.reply(x.request, json_response(body + "]}"));
}

asio::awaitable<void> describe_model(exchange x) {
  if (const auto fault = co_await not_ready(x.context)) {
    co_await x.client.reply(x.request, error_response(*fault));
    co_return;
  }
  const auto& model = *x.context.model;
  http_response response;
  try {
    constexpr std::string_view prefix = "/models/";
    const auto name = served_model_name(x.request.path.substr(prefix.size()), model.limits);
    append_model(response.body, model, name, start_time(x.context));
  } catch (const request_fault& fault) {
    response = error_response(fault.error());
  }
  co_await x.client.reply(x.request, std::move(response));
}

}  // namespace troupe::http
