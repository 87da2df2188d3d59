#include "actors/gateway_actor.hpp"

#include "actors/errors.hpp"

#include <caf/actor_clock.hpp>
#include <caf/send.hpp>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <limits>
#include <utility>

namespace troupe::actors {
namespace {

// A client that was refused for overload should come back when the work of a few steps is done.
constexpr int64_t retry_after_ms_busy = 1'000;
constexpr int64_t retry_after_ms_unavailable = 2'000;
// Statistics are asked of actors that only compute for microseconds. Two questions follow each other, and the
// front end waits for five seconds.
constexpr std::chrono::milliseconds statistics_timeout{2'000};

refusal invalid_image(std::string message) { return {400, "invalid_image", std::move(message)}; }

std::optional<refusal> check_media(const std::vector<model::media_item>& media,
                                   const gateway_options& limits) {
  int64_t images = 0;
  int64_t pixels = 0;
  for (const auto& item : media) {
    if (item.video && std::ssize(item.frames) > limits.max_video_frames)
      return invalid_image(fmt::format("a video has {} frames, at most {} are allowed",
                                       item.frames.size(), limits.max_video_frames));
    images += item.video ? 0 : 1;
    pixels += item.pixels;
  }
  if (images > limits.max_images_per_request)
    return invalid_image(fmt::format("the request has {} pictures, at most {} are allowed", images,
                                     limits.max_images_per_request));
  if (limits.max_request_pixels > 0 && pixels > limits.max_request_pixels)
    return invalid_image(fmt::format("the request's pictures have {} pixels, at most {} are allowed",
                                     pixels, limits.max_request_pixels));
  return std::nullopt;
}

std::shared_ptr<const plan::prompt> with_digests(const plan::prompt& prompt,
                                                 const std::vector<plan::media_digest>& digests) {
  auto copy = std::make_shared<plan::prompt>(prompt);
  for (auto& span : copy->spans) span.digest = digests.at(static_cast<size_t>(span.media_index));
  return copy;
}

refusal context_exceeded(const prompt_token_counts& tokens, int32_t max_tokens, int64_t limit) {
  return {400, "context_length_exceeded",
          fmt::format("the model's context is {} tokens, but the prompt has {} ({} text, {} image, {} "
                      "video) and {} are to be generated",
                      limit, tokens.total(), tokens.text, tokens.image, tokens.video,
                      std::max(max_tokens, 1))};
}

const char* code_of(scheduling::rejection why) {
  switch (why) {
    case scheduling::rejection::queue_full: return "queue_full";
    case scheduling::rejection::too_long: return "context_length_exceeded";
    case scheduling::rejection::too_many_visual_rows: return "invalid_image";
    case scheduling::rejection::too_many_adjustments:
    case scheduling::rejection::malformed: return "invalid_value";
  }
  return "invalid_value";
}

engine_status complete_status(engine_status status, const scheduler_statistics& scheduler,
                              const vision_statistics& vision) {
  status.planner = scheduler.planner;
  status.verification = scheduler.verification;
  status.vision_rows_total = vision.rows_total;
  status.vision_rows_used = vision.rows_used;
  status.images_encoded = vision.images_encoded;
  status.images_reused = vision.images_reused;
  status.vision_pacing = vision.pacing;
  status.graph_captures_after_start =
      std::max(scheduler.graph_captures_after_start, vision.graph_captures_after_start);
  status.arena_allocations_after_start =
      std::max(scheduler.arena_allocations_after_start, vision.arena_allocations_after_start);
  return status;
}

}  // namespace

prompt_token_counts count_tokens(const plan::prompt& prompt,
                                 const std::vector<model::media_item>& media) {
  prompt_token_counts counts;
  for (const auto& span : prompt.spans) {
    const bool video = media.at(static_cast<size_t>(span.media_index)).video;
    (video ? counts.video : counts.image) += span.num_tokens;
  }
  counts.text = std::ssize(prompt.token_ids) - counts.image - counts.video;
  return counts;
}

std::optional<int32_t> resolve_max_tokens(int64_t prompt_tokens, int32_t max_tokens,
                                          int64_t max_model_len) {
  const int64_t room = max_model_len - prompt_tokens;
  if (room < std::max(max_tokens, 1)) return std::nullopt;
  if (max_tokens > 0) return max_tokens;
  return static_cast<int32_t>(std::min<int64_t>(room, std::numeric_limits<int32_t>::max()));
}

gateway_core::gateway_core(self_pointer self, gateway_options options)
    : self_(self), options_(options) {}

// -- the way in ------------------------------------------------------------

void gateway_core::submit(const submit_request& message) {
  const auto& request = *message.request;
  if (auto rejected = refuse_at_the_door(request)) {
    caf::anon_send(message.sink, *std::move(rejected));
    return;
  }
  const auto deadline = self_->clock().now() + options_.request_deadline;
  const auto id = request.id;
  watch(message.sink);
  requests_.emplace(id, entry{message.request, message.sink, stage::preparing, false, deadline, nullptr});
  self_->request(engine_->tokenizer, options_.request_deadline, prepare_prompt{message.request})
      .then([this, id](const prompt_prepared& prepared) { take_prompt(id, prepared); },
            [this, id](const caf::error& failure) { take_failure(id, "tokenizer", failure); });
}

std::optional<request_rejected> gateway_core::refuse_at_the_door(
    const completion_request& request) const {
  const auto unavailable = [&](const char* code, std::string why) {
    return request_rejected{request.id, 503, code, std::move(why), retry_after_ms_unavailable};
  };
  if (phase_.phase == engine_phase::failed) return unavailable("engine_failed", "the engine failed");
  if (draining_) return unavailable("draining", "the server is shutting down");
  if (!was_ready_ || !engine_) return unavailable("loading", "the model is loading");
  if (requests_.contains(request.id))
    return request_rejected{request.id, 500, "engine_error",
                            fmt::format("a request with id {} is running already", request.id), 0};
  if (num_preparing() >= static_cast<size_t>(options_.max_preparing_requests))
    return request_rejected{request.id, 429, "queue_full",
                            fmt::format("{} requests are being prepared, at most {} may be",
                                        num_preparing(), options_.max_preparing_requests),
                            retry_after_ms_busy};
  if (auto refused = check_media(request.media, options_))
    return request_rejected{request.id, refused->http_status, refused->code, refused->message, 0};
  return std::nullopt;
}

void gateway_core::take_prompt(request_id id, const prompt_prepared& prepared) {
  auto* request = find_preparing(id);
  if (request == nullptr) return;
  if (prepared.refused) return reject(id, *prepared.refused);
  const auto& media = request->request->media;
  const auto tokens = count_tokens(*prepared.prompt, media);
  const auto max_tokens = request->request->sampling.max_tokens;
  if (tokens.total() == 0)
    return reject(id, {400, "invalid_value", "the prompt has no tokens, at least 1 is needed"});
  if (!resolve_max_tokens(tokens.total(), max_tokens, options_.max_model_len))
    return reject(id, context_exceeded(tokens, max_tokens, options_.max_model_len));
  request->prompt = prepared.prompt;
  if (prepared.prompt->spans.empty()) return schedule(id);
  self_->request(engine_->vision_encoder, time_left(*request), prepare_media{request->request})
      .then([this, id](const media_prepared& digests) { take_digests(id, digests); },
            [this, id](const caf::error& failure) { take_failure(id, "vision encoder", failure); });
}

void gateway_core::take_digests(request_id id, const media_prepared& prepared) {
  auto* request = find_preparing(id);
  if (request == nullptr) return;
  if (prepared.refused) return reject(id, *prepared.refused);
  request->prompt = with_digests(*request->prompt, prepared.digests);
  schedule(id);
}

void gateway_core::schedule(request_id id) {
  auto& request = *find(id);
  request.at = stage::scheduled;
  auto sampling = request.request->sampling;
  sampling.max_tokens = resolve_max_tokens(std::ssize(request.prompt->token_ids),
                                           sampling.max_tokens, options_.max_model_len)
                            .value();
  self_->request(engine_->scheduler, time_left(request),
                 schedule_request{request.request, request.prompt, std::move(sampling),
                                  request.deadline})
      .then([this, id](const scheduling::admission_result& decision) { take_admission(id, decision); },
            [this, id](const caf::error& failure) { take_failure(id, "scheduler", failure); });
  request.prompt.reset();  // the scheduler's now
  if (request.paused) self_->send(engine_->scheduler, pause_request{id});
}

void gateway_core::take_admission(request_id id, const scheduling::admission_result& admission) {
  if (!admission.rejected) return;
  const auto why = *admission.rejected;
  end(request_rejected{id, why == scheduling::rejection::queue_full ? 429 : 400, code_of(why),
                       admission.detail, admission.retry_after.count()});
}

void gateway_core::take_failure(request_id id, const char* step, const caf::error& failure) {
  if (find(id) == nullptr) return;
  cancel_work(id);
  if (failure == caf::sec::request_timeout)
    return end(request_failed{id, 408, "deadline_exceeded",
                              "the request was not prepared before its deadline"});
  spdlog::error("request {}: {}: {}", id, step, describe(failure));
  end(request_failed{id, 500, "engine_error", fmt::format("the {} failed", step)});
}

void gateway_core::reject(request_id id, const refusal& refused) {
  end(request_rejected{id, refused.http_status, refused.code, refused.message, 0});
}

// -- the way out ------------------------------------------------------------

void gateway_core::forward(const text_delta& delta) {
  if (auto* request = find(delta.id)) caf::anon_send(request->sink, delta);
}

template <class Terminal>
void gateway_core::end(const Terminal& terminal) {
  const auto found = requests_.find(terminal.id);
  if (found == requests_.end()) return;
  const auto sink = std::move(found->second.sink);
  requests_.erase(found);
  unwatch(sink);
  caf::anon_send(sink, terminal);
  if (requests_.empty()) answer_waiters();
}

void gateway_core::cancel(request_id id) {
  auto* request = find(id);
  if (request == nullptr) return;
  const bool scheduled = request->at == stage::scheduled;
  cancel_work(id);
  // A scheduled request ends when the planner says so; before that nobody else knows of it.
  if (!scheduled) end(request_cancelled{id});
}

void gateway_core::pause(request_id id) {
  auto* request = find(id);
  if (request == nullptr || std::exchange(request->paused, true)) return;
  if (request->at == stage::scheduled) self_->send(engine_->scheduler, pause_request{id});
}

void gateway_core::resume(request_id id) {
  auto* request = find(id);
  if (request == nullptr || !std::exchange(request->paused, false)) return;
  if (request->at == stage::scheduled) self_->send(engine_->scheduler, resume_request{id});
}

void gateway_core::cancel_work(request_id id) {
  const auto* request = find(id);
  if (request->at == stage::scheduled)
    self_->send(engine_->scheduler, cancel_request{id});
  else
    self_->send(engine_->vision_encoder, release_rows{id});
}

bool gateway_core::serves(const caf::actor_addr& sink) const {
  return std::any_of(requests_.begin(), requests_.end(),
                     [&](const auto& item) { return item.second.sink.address() == sink; });
}

void gateway_core::watch(const caf::actor& sink) {
  // Choices of one client share a sink; monitoring it twice would also tell twice.
  if (!serves(sink.address())) self_->monitor(sink);
}

void gateway_core::unwatch(const caf::actor& sink) {
  if (!serves(sink.address())) self_->demonitor(sink);
}

void gateway_core::somebody_died(const caf::down_msg& down) {
  if (engine_ && down.source == engine_->supervisor.address())
    return change_phase({engine_phase::failed, "the supervisor ended", {}});
  std::vector<request_id> orphans;
  for (const auto& [id, request] : requests_)
    if (request.sink.address() == down.source) orphans.push_back(id);
  for (const auto id : orphans) cancel(id);
}

void gateway_core::fail_all(const request_failed& how) {
  std::vector<request_id> ids;
  for (const auto& [id, request] : requests_) ids.push_back(id);
  for (const auto id : ids) {
    cancel_work(id);
    auto failed = how;
    failed.id = id;
    end(failed);
  }
}

// -- the engine's state ------------------------------------------------------------

void gateway_core::assemble(const engine_assembled& parts) {
  engine_ = parts;
  self_->monitor(parts.supervisor);
}

void gateway_core::change_phase(const phase_changed& change) {
  if (phase_.phase == engine_phase::failed) return;  // there is no way back
  phase_ = change;
  was_ready_ = was_ready_ || change.phase == engine_phase::ready;
  if (change.phase == engine_phase::failed)
    fail_all({0, 500, "engine_error", "the engine failed and cannot be restarted"});
  answer_waiters();
}

void gateway_core::stop() {
  fail_all({0, 503, "shutting_down", "the server shut down before the request ended"});
  change_phase({engine_phase::failed, "shut down", {}, phase_.recovery});
}

caf::result<engine_status> gateway_core::await(await_ready) {
  auto promise = self_->make_response_promise<engine_status>();
  ready_waiters_.push_back(promise);
  answer_waiters();
  return promise;
}

caf::result<engine_status> gateway_core::drain(const begin_drain& message) {
  draining_ = true;
  auto promise = self_->make_response_promise<engine_status>();
  drain_waiters_.push_back(promise);
  if (requests_.empty())
    answer_waiters();
  else
    self_->delayed_send(self_, std::chrono::milliseconds(message.grace_ms), caf::tick_atom::value);
  return promise;
}

void gateway_core::grace_passed() {
  fail_all({0, 503, "shutting_down", "the server shut down before the request ended"});
}

void gateway_core::answer_waiters() {
  const auto status = own_status();
  if (phase_.phase == engine_phase::ready || phase_.phase == engine_phase::failed)
    for (auto& waiter : std::exchange(ready_waiters_, {})) waiter.deliver(status);
  if (draining_ && requests_.empty())
    for (auto& waiter : std::exchange(drain_waiters_, {})) waiter.deliver(status);
}

engine_status gateway_core::own_status() const {
  engine_status status;
  const bool drains = draining_ && phase_.phase != engine_phase::failed;
  status.phase = drains ? engine_phase::draining : phase_.phase;
  status.detail = phase_.detail.empty() ? phase_.progress.phase : phase_.detail;
  status.percent = phase_.phase == engine_phase::ready ? 100 : phase_.progress.percent;
  status.done = phase_.progress.done;
  status.total = phase_.progress.total;
  status.counts_bytes = phase_.progress.counts_bytes;
  status.recovery = phase_.recovery;
  status.max_model_len = options_.max_model_len;
  return status;
}

caf::result<engine_status> gateway_core::status() {
  if (!engine_ || phase_.phase == engine_phase::failed) return own_status();
  auto promise = self_->make_response_promise<engine_status>();
  const auto answer_without = [this, promise](const caf::error&) mutable {
    promise.deliver(own_status());
  };
  self_->request(engine_->scheduler, statistics_timeout, get_scheduler_statistics{})
      .then(
          [this, promise, answer_without](const scheduler_statistics& scheduler) {
            self_->request(engine_->vision_encoder, statistics_timeout, get_vision_statistics{})
                .then(
                    [this, promise, scheduler](const vision_statistics& vision) mutable {
                      promise.deliver(complete_status(own_status(), scheduler, vision));
                    },
                    answer_without);
          },
          answer_without);
  return promise;
}

// -- text ------------------------------------------------------------

caf::result<tokenized> gateway_core::tokenize(const tokenize_text& message) {
  if (!engine_) return tokenized{{}, "the model is loading"};
  return self_->delegate(engine_->tokenizer, message);
}

caf::result<detokenized> gateway_core::detokenize(const detokenize_ids& message) {
  if (!engine_) return detokenized{{}, "the model is loading"};
  return self_->delegate(engine_->tokenizer, message);
}

gateway_core::entry* gateway_core::find(request_id id) {
  const auto found = requests_.find(id);
  return found == requests_.end() ? nullptr : &found->second;
}

gateway_core::entry* gateway_core::find_preparing(request_id id) {
  auto* request = find(id);
  return request != nullptr && request->at == stage::preparing ? request : nullptr;
}

std::chrono::milliseconds gateway_core::time_left(const entry& request) const {
  const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(request.deadline -
                                                                          self_->clock().now());
  return std::max(left, std::chrono::milliseconds{1});
}

size_t gateway_core::num_preparing() const {
  return static_cast<size_t>(std::count_if(requests_.begin(), requests_.end(), [](const auto& item) {
    return item.second.at == stage::preparing;
  }));
}

inner_gateway_actor::behavior_type gateway(
    inner_gateway_actor::stateful_pointer<gateway_state> self, gateway_options options) {
  self->state.core = std::make_unique<gateway_core>(self, options);
  auto* core = self->state.core.get();
  self->set_down_handler([core](const caf::down_msg& down) { core->somebody_died(down); });
  self->set_exit_handler([self, core](const caf::exit_msg& exit) {
    core->stop();
    self->quit(exit.reason);
  });
  return {
      [core](const submit_request& message) { core->submit(message); },
      [core](const cancel_request& message) { core->cancel(message.id); },
      [core](const pause_request& message) { core->pause(message.id); },
      [core](const resume_request& message) { core->resume(message.id); },
      [core](get_status) { return core->status(); },
      [core](const tokenize_text& message) { return core->tokenize(message); },
      [core](const detokenize_ids& message) { return core->detokenize(message); },
      [core](const engine_assembled& parts) { core->assemble(parts); },
      [core](const text_delta& delta) { core->forward(delta); },
      [core](const request_finished& finished) { core->end(finished); },
      [core](const request_failed& failed) { core->end(failed); },
      [core](const request_cancelled& cancelled) { core->end(cancelled); },
      [core](const phase_changed& change) { core->change_phase(change); },
      [core](await_ready message) { return core->await(message); },
      [core](const begin_drain& message) { return core->drain(message); },
      [core](caf::tick_atom) { core->grace_passed(); },
  };
}

}  // namespace troupe::actors
