#include "actors/http/handlers.hpp"
#include "actors/http/json_text.hpp"
#include "actors/http/text_request.hpp"
#include "actors/system.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <memory>
#include <utility>

namespace troupe::http {

namespace {

namespace asio = boost::asio;

actors::tokenize_text question_of(tokenize_request request) {
  if (auto* text = std::get_if<std::string>(&request.input)) return {std::move(*text), nullptr};
  auto& conversation = std::get<chat_request>(request.input);
  auto completion = std::make_shared<actors::completion_request>();
  completion->id = actors::next_request_id();
  completion->chat = std::move(conversation.chat);
  completion->media = std::move(conversation.media);
  return {{}, std::move(completion)};
}

http_response silent_engine() {
  return error_response(engine_fault(503, "engine_silent", "the engine does not answer", 1'000));
}

/// vLLM's fields; llama-server's `tokens` is among them.
std::string tokenized_body(const std::vector<int32_t>& ids, bool with_strings,
                           const served_model& model) {
  auto body = fmt::format(R"({{"count":{},"max_model_len":{},"tokens":[{}])", ids.size(),
                          model.limits.max_model_len, fmt::join(ids, ","));
  if (with_strings) {
    body += R"(,"token_strs":[)";
    for (const auto id : ids) {
      if (!body.ends_with('[')) body += ',';
      append_text(body, model.token_bytes(id));
    }
    body += ']';
  }
  return body + "}";
}

/// vLLM calls the text `prompt`, llama-server `content`.
std::string detokenized_body(const std::string& text) {
  std::string quoted;
  append_text(quoted, text);
  return fmt::format(R"({{"prompt":{0},"content":{0}}})", quoted);
}

}  // namespace

asio::awaitable<void> tokenize(exchange x) {
  if (const auto error = co_await not_ready(x.context))
    co_return co_await x.client.reply(x.request, error_response(*error));
  const auto& model = *x.context.model;
  const auto parse = [&] { return parse_tokenize_request(x.request.body, model.limits); };
  auto parsed = co_await off_network_thread(x.context, x.request.body.size(), parse);
  if (const auto* error = std::get_if<api_error>(&parsed))
    co_return co_await x.client.reply(x.request, error_response(*error));
  auto& request = std::get<tokenize_request>(parsed);
  const bool with_strings = request.with_strings;
  const auto reply = co_await x.context.link.tokenize(question_of(std::move(request)));
  auto response = !reply ? silent_engine()
                  : reply->error.empty()
                      ? json_response(tokenized_body(reply->ids, with_strings, model))
                      : error_response(make_error(400, "invalid_value", reply->error));
  co_await x.client.reply(x.request, std::move(response));
}

asio::awaitable<void> detokenize(exchange x) {
  if (const auto error = co_await not_ready(x.context))
    co_return co_await x.client.reply(x.request, error_response(*error));
  const auto& limits = x.context.model->limits;
  const auto parse = [&] { return parse_detokenize_request(x.request.body, limits); };
  auto parsed = co_await off_network_thread(x.context, x.request.body.size(), parse);
  if (const auto* error = std::get_if<api_error>(&parsed))
    co_return co_await x.client.reply(x.request, error_response(*error));
  actors::detokenize_ids question{std::move(std::get<detokenize_request>(parsed).ids)};
  const auto reply = co_await x.context.link.detokenize(std::move(question));
  auto response = !reply ? silent_engine()
                  : reply->error.empty()
                      ? json_response(detokenized_body(reply->text))
                      : error_response(make_error(400, "invalid_value", reply->error));
  co_await x.client.reply(x.request, std::move(response));
}

}  // namespace troupe::http
