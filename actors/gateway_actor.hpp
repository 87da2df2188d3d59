#pragma once

#include "actors/engine_messages.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <caf/typed_response_promise.hpp>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::actors {

struct gateway_options {
  int64_t max_model_len = 0;
  int32_t max_preparing_requests = 256;  // in tokenizer and picture decoding at once; more are refused
  int32_t max_images_per_request = 16;
  int32_t max_video_frames = 768;
  int64_t max_request_pixels = 0;
  std::chrono::milliseconds request_deadline{600'000};
};

/// A request's way through the engine:
///
///   submit -> [tokenizer] -> context check -> [vision encoder: digests] -> [scheduler: admission] -> running
///
/// and every way ends in exactly one terminal message to its sink, because only `end` sends those and it
/// forgets the request. A sink that dies cancels its requests; an engine that fails ends them all.
class gateway_core {
 public:
  using self_pointer = inner_gateway_actor::stateful_pointer<struct gateway_state>;

  gateway_core(self_pointer self, gateway_options options);

  void submit(const submit_request& message);
  void cancel(request_id id);
  void pause(request_id id);
  void resume(request_id id);
  void assemble(const engine_assembled& parts);
  void change_phase(const phase_changed& change);
  void forward(const text_delta& delta);
  /// Ends the request: `terminal` is one of the four terminal messages and goes to its sink.
  template <class Terminal>
  void end(const Terminal& terminal);
  void somebody_died(const caf::down_msg& down);
  void stop();

  caf::result<engine_status> status();
  caf::result<engine_status> await(await_ready);
  caf::result<engine_status> drain(const begin_drain& message);
  void grace_passed();
  caf::result<tokenized> tokenize(const tokenize_text& message);
  caf::result<detokenized> detokenize(const detokenize_ids& message);

  size_t num_requests() const { return requests_.size(); }

 private:
  enum class stage : uint8_t { preparing, scheduled };
  struct entry {
    std::shared_ptr<const completion_request> request;
    caf::actor sink;
    stage at = stage::preparing;
    bool paused = false;
    scheduling::time_point deadline;
    std::shared_ptr<const plan::prompt> prompt;
  };
  using status_promise = caf::typed_response_promise<engine_status>;

  std::optional<request_rejected> refuse_at_the_door(const completion_request& request) const;
  void take_prompt(request_id id, const prompt_prepared& prepared);
  void take_digests(request_id id, const media_prepared& prepared);
  void schedule(request_id id);
  void take_admission(request_id id, const scheduling::admission_result& admission);
  void take_failure(request_id id, const char* step, const caf::error& failure);
  void reject(request_id id, const refusal& refused);
  void cancel_work(request_id id);
  void watch(const caf::actor& sink);
  void unwatch(const caf::actor& sink);
  bool serves(const caf::actor_addr& sink) const;
  entry* find(request_id id);
  entry* find_preparing(request_id id);
  std::chrono::milliseconds time_left(const entry& request) const;
  size_t num_preparing() const;
  void fail_all(const request_failed& how);
  void answer_waiters();
  engine_status own_status() const;

  self_pointer self_;
  gateway_options options_;
  std::optional<engine_assembled> engine_;
  phase_changed phase_;
  bool was_ready_ = false;  // a group being rebuilt keeps accepting: the queue is bounded
  bool draining_ = false;
  std::unordered_map<request_id, entry> requests_;
  std::vector<status_promise> ready_waiters_;
  std::vector<status_promise> drain_waiters_;
};

struct gateway_state {
  std::unique_ptr<gateway_core> core;
  static inline const char* name = "gateway";
};

/// Spawned first: it tells what the engine is doing while nothing else exists yet.
inner_gateway_actor::behavior_type gateway(
    inner_gateway_actor::stateful_pointer<gateway_state> self, gateway_options options);

/// Tokens of a prompt by what they stand for, for messages and usage.
struct prompt_token_counts {
  int64_t text = 0;
  int64_t image = 0;
  int64_t video = 0;
  int64_t total() const { return text + image + video; }
};
prompt_token_counts count_tokens(const plan::prompt& prompt,
                                 const std::vector<model::media_item>& media);

/// How many tokens the request may generate: what it asks for, or the rest of the context. Nothing if
/// prompt and answer do not fit.
std::optional<int32_t> resolve_max_tokens(int64_t prompt_tokens, int32_t max_tokens,
                                          int64_t max_model_len);

}  // namespace troupe::actors
