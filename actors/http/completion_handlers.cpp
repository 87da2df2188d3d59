#include "actors/http/chat_request.hpp"
#include "actors/http/handlers.hpp"
#include "actors/http/text_request.hpp"
#include "actors/system.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>
#include <vector>

namespace troupe::http {

namespace {

namespace asio = boost::asio;
using clock = generation::clock;

constexpr std::string_view ping_frame = ": ping\n\n";

/// Well-mixed 64 bits of `value`. Source: Steele, Lea and Flood 2014 (SplitMix64).
uint64_t mixed(uint64_t value) {
  value += 0x9E3779B97F4A7C15;
  value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9;
  value = (value ^ (value >> 27)) * 0x94D049BB133111EB;
  return value ^ (value >> 31);
}

uint64_t base_seed(server_context& context, const generation_options& options) {
  if (options.seed) return *options.seed;
  return mixed(context.model->seed ^ mixed(++context.num_generated_seeds));
}

/// Choices of one request must differ: the first keeps the seed, so that n = 1 and n > 1 agree on
/// it.
uint64_t choice_seed(uint64_t base, int32_t choice) {
  return choice == 0 ? base : mixed(base + static_cast<uint64_t>(choice));
}

actors::completion_request make_completion(const generation_options& options, uint64_t seed) {
  actors::completion_request completion;
  completion.id = actors::next_request_id();
  completion.sampling = options.sampling;
  completion.sampling.seed = seed;
  completion.stop = options.stop;
  completion.include_stop_text = options.include_stop_text;
  completion.skip_special_tokens = options.skip_special_tokens;
  return completion;
}

answer_options make_answer_options(const server_context& context, const generation_options& options,
                                   bool chat, int32_t num_prompts) {
  answer_options made;
  made.chat = chat;
  made.id = random_id(chat ? "chatcmpl-" : "cmpl-");
  made.created = std::chrono::duration_cast<std::chrono::seconds>(
                     std::chrono::system_clock::now().time_since_epoch())
                     .count();
  made.model = options.model;
  made.choices_per_prompt = options.num_choices;
  made.num_choices = options.num_choices * num_prompts;
  made.include_usage = options.include_usage;
  made.continuous_usage = options.continuous_usage;
  made.logprobs = options.sampling.num_logprobs >= 0;
  made.return_token_ids = options.return_token_ids;
  made.style = {chat, options.tokens_as_ids, context.model->token_bytes};
  return made;
}

/// Keeps a generation in the list of those that a shutdown must end.
class registration {
 public:
  registration(server_context& context, generation& work) : context_(context), work_(work) {
    context_.generations.insert(&work_);
  }
  ~registration() { context_.generations.erase(&work_); }
  registration(const registration&) = delete;
  registration& operator=(const registration&) = delete;

 private:
  server_context& context_;
  generation& work_;
};

http_response event_stream_head() {
  http_response head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers.emplace_back("Cache-Control", "no-cache");
  head.headers.emplace_back("X-Accel-Buffering", "no");  // nginx would hold frames back
  return head;
}

/// The engine ends every request at its deadline; one that it has forgotten must not wait for ever.
clock::time_point given_up_at(const exchange& x) {
  constexpr std::chrono::seconds grace{5};
  return x.request.arrived + x.context.options.request_deadline + grace;
}

void give_up(generation& work) {
  work.fail(engine_fault(500, "engine_error", "the engine brought no end to this request in time"));
}

asio::awaitable<void> answer_whole(exchange x, generation& work) {
  const auto last = given_up_at(x);
  while (!work.over()) {
    co_await work.wait(last);
    if (clock::now() >= last) give_up(work);
  }
  if (work.abandoned()) {
    x.client.break_off();
    co_return;
  }
  auto response =
      work.error() ? error_response(*work.error()) : json_response(work.result().body());
  co_await x.client.reply(x.request, std::move(response));
}

/// The stream of one answer: its head leaves with the first frame, or when a refusal is no longer
/// likely; comments keep it alive while the engine has nothing to say.
class answer_stream {
 public:
  answer_stream(exchange x, generation& work)
      : x_(x), work_(work), quiet_since_(x.request.arrived), last_(given_up_at(x)) {}

  asio::awaitable<void> run() {
    while (!ended_) {
      if (x_.client.client_gone()) work_.abandon();
      if (work_.abandoned()) co_return x_.client.break_off();
      if (work_.error() && !begun_)
        co_return co_await x_.client.reply(x_.request, error_response(*work_.error()));
      if (work_.error() || work_.result().has_frames())
        co_await send_frames();
      else
        co_await keep_alive();
    }
    co_await x_.client.end_stream();
  }

 private:
  asio::awaitable<void> send_frames() {
    std::string frames;
    work_.result().take_frames(frames);
    if (work_.error()) {
      answer::append_failure(frames, *work_.error());
      x_.client.break_off();
    }
    ended_ = work_.over();  // then the frames end with [DONE]
    co_await send(frames);
    work_.client_caught_up();
  }

  asio::awaitable<void> keep_alive() {
    const auto& options = x_.context.options;
    const auto due =
        quiet_since_ + (begun_ ? options.http.ping_interval : options.stream_head_delay);
    co_await work_.wait(std::min(due, last_));
    const auto now = clock::now();
    if (now >= last_)
      give_up(work_);
    else if (now >= due && !work_.over() && !work_.result().has_frames())
      co_await send(ping_frame);
  }

  asio::awaitable<void> send(std::string_view frames) {
    if (!std::exchange(begun_, true))
      co_await x_.client.begin_stream(x_.request, event_stream_head());
    co_await x_.client.write(frames);
    quiet_since_ = clock::now();
  }

  exchange x_;
  generation& work_;
  clock::time_point quiet_since_;
  clock::time_point last_;
  bool begun_ = false;
  bool ended_ = false;
};

void log_access(const exchange& x, generation& work, const std::string& answer_id) {
  const std::chrono::duration<double, std::milli> taken = clock::now() - x.request.arrived;
  const auto& usage = work.result().usage();
  spdlog::info(
      "{} {} {} {} prompt={} cached={} visual={} completion={} ttft_ms={:.1f} total_ms={:.1f}",
      x.request.request_id, answer_id, x.request.path,
      work.abandoned() ? "client_closed"
      : work.error()   ? work.error()->code
                       : "ok",
      usage.prompt_tokens, usage.cached_tokens, usage.visual_tokens, usage.completion_tokens,
      work.seconds_to_first_token().value_or(0) * 1e3, taken.count());
}

asio::awaitable<void> run(exchange x, const generation_options& options, answer_options format,
                          generation::choice_list choices,
                          std::vector<std::vector<int32_t>> prompt_ids) {
  const auto held_max =
      options.stream
          ? std::optional(static_cast<size_t>(x.context.options.http.stream_buffer_bytes))
          : std::nullopt;
  const auto answer_id = format.id;
  x.context.metrics.count_accepted(options.num_choices, options.sampling.max_tokens);
  x.context.metrics.count_unknown_fields(static_cast<int64_t>(options.warnings.size()));
  for (const auto& warning : options.warnings) spdlog::warn("{} {}", x.request.request_id, warning);
  generation work(x.context.link, x.context.metrics, std::move(format), std::move(choices),
                  x.request.arrived, held_max);
  if (options.return_token_ids) work.result().set_prompt_ids(std::move(prompt_ids));
  const registration registered(x.context, work);
  {
    const connection::peer_watch watch(x.client, [&work] { work.abandon(); });
    work.start();
    if (options.stream) {
      answer_stream stream(x, work);
      co_await stream.run();
    } else {
      co_await answer_whole(x, work);
    }
  }
  log_access(x, work, answer_id);
}

asio::awaitable<void> refuse(exchange x, api_error error) {
  co_await x.client.reply(x.request, error_response(error));
}

/// Token ids of a prompt, from the engine's own tokenizer.
asio::awaitable<std::variant<std::vector<int32_t>, api_error>> encode(
    server_context& context, actors::tokenize_text question, std::string param) {
  auto reply = co_await context.link.tokenize(std::move(question));
  if (!reply) co_return engine_fault(503, "engine_silent", "the engine does not answer", 1'000);
  if (reply->error.empty() && !reply->ids.empty()) co_return std::move(reply->ids);
  auto error = make_error(400, "invalid_value",
                          reply->error.empty() ? param + " has no tokens" : reply->error);
  error.param = std::move(param);
  co_return error;
}

asio::awaitable<std::variant<std::vector<std::vector<int32_t>>, api_error>> encode_all(
    server_context& context, std::vector<text_prompt> prompts) {
  std::vector<std::vector<int32_t>> encoded;
  for (auto& prompt : prompts) {
    if (auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
      encoded.push_back(std::move(*ids));
      continue;
    }
    actors::tokenize_text question{std::move(std::get<std::string>(prompt)), nullptr};
    auto result = co_await encode(context, std::move(question), "prompt");
    if (auto* error = std::get_if<api_error>(&result)) co_return std::move(*error);
    encoded.push_back(std::move(std::get<std::vector<int32_t>>(result)));
  }
  co_return encoded;
}

}  // namespace

asio::awaitable<void> complete_chat(exchange x) {
  if (auto error = co_await not_ready(x.context)) co_return co_await refuse(x, *error);
  const auto parse = [&] { return parse_chat_request(x.request.body, x.context.model->limits); };
  auto parsed = co_await off_network_thread(x.context, x.request.body.size(), parse);
  x.request.body = {};
  if (auto* error = std::get_if<api_error>(&parsed)) co_return co_await refuse(x, *error);
  auto& request = std::get<chat_request>(parsed);
  const auto& options = request.options;
  for (const auto& item : request.media)
    x.context.metrics.count_media(item, x.context.model->limits.preprocessor.merge_size);
  auto format = make_answer_options(x.context, options, true, 1);
  format.parsing = {x.context.model->kind == model::template_kind::thinking,
                    request.parse_tool_calls};
  const auto seed = base_seed(x.context, options);
  generation::choice_list choices;
  for (int32_t i = 0; i < options.num_choices; ++i) {
    auto completion = make_completion(options, choice_seed(seed, i));
    completion.chat = request.chat;
    completion.media = request.media;
    choices.push_back(std::make_shared<const actors::completion_request>(std::move(completion)));
  }
  std::vector<std::vector<int32_t>> prompt_ids;
  if (options.return_token_ids) {
    actors::tokenize_text question{{}, choices.front()};
    auto encoded = co_await encode(x.context, std::move(question), "messages");
    if (auto* error = std::get_if<api_error>(&encoded)) co_return co_await refuse(x, *error);
    prompt_ids.push_back(std::move(std::get<std::vector<int32_t>>(encoded)));
  }
  co_await run(x, options, std::move(format), std::move(choices), std::move(prompt_ids));
}

asio::awaitable<void> complete_text(exchange x) {
  if (auto error = co_await not_ready(x.context)) co_return co_await refuse(x, *error);
  const auto parse = [&] { return parse_text_request(x.request.body, x.context.model->limits); };
  auto parsed = co_await off_network_thread(x.context, x.request.body.size(), parse);
  x.request.body = {};
  if (auto* error = std::get_if<api_error>(&parsed)) co_return co_await refuse(x, *error);
  auto& request = std::get<text_request>(parsed);
  const auto& options = request.options;
  auto encoded = co_await encode_all(x.context, std::move(request.prompts));
  if (auto* error = std::get_if<api_error>(&encoded)) co_return co_await refuse(x, *error);
  auto& prompts = std::get<std::vector<std::vector<int32_t>>>(encoded);
  const auto seed = base_seed(x.context, options);
  generation::choice_list choices;
  for (const auto& ids : prompts)
    for (int32_t i = 0; i < options.num_choices; ++i) {
      auto completion = make_completion(options, choice_seed(seed, i));
      completion.prompt_ids = ids;
      choices.push_back(std::make_shared<const actors::completion_request>(std::move(completion)));
    }
  auto format =
      make_answer_options(x.context, options, false, static_cast<int32_t>(prompts.size()));
  co_await run(x, options, std::move(format), std::move(choices), std::move(prompts));
}

}  // namespace troupe::http
