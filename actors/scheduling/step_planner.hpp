#pragma once

#include "model/plan/prompt.hpp"
#include "model/plan/sampling_params.hpp"
#include "model/plan/step_plan.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

/// Every decision of the engine, as a pure state machine: no CAF, no CUDA, no clock of its own.
namespace troupe::scheduling {

using request_id = uint64_t;
using time_point = std::chrono::steady_clock::time_point;

struct planner_limits {
  plan::plan_limits plan;
  std::vector<int32_t> end_token_ids;  // of the model
  int32_t max_waiting_requests = 0;
  int64_t max_waiting_tokens = 0;
  int32_t max_preemptions = 3;         // then a request is protected
  int32_t max_replays = 3;             // after lost groups; then it fails
  bool prefix_cache = true;
};

/// A validated request. `prompt` spans carry digests.
struct new_request {
  request_id id = 0;
  plan::prompt prompt;
  plan::sampling_params sampling;
  time_point deadline;
};

enum class rejection : uint8_t { queue_full, too_long, too_many_visual_rows };
struct admission_result {
  std::optional<rejection> rejected;                  // empty: admitted
  std::string detail;                                 // found and limit
  std::chrono::milliseconds retry_after{0};           // queue_full: the planner's own estimate
};

enum class end_reason : uint8_t { stop, length, cancelled, failed, deadline };

struct usage_counts {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t visual_tokens = 0;
  int32_t completion_tokens = 0;
};

/// What the actor around the planner must do, in order.
struct want_media { request_id id; };            // ask the encoder for the request's rows
struct release_media { request_id id; };         // its prompt is computed (or it ended): give rows back
struct token_generated {
  request_id id;
  int32_t index = 0;  // 0-based, gap-free over preemptions and replays
  int32_t token = 0;
  plan::token_logprobs logprobs;
};
struct request_ended {
  request_id id;
  end_reason reason = end_reason::stop;
  std::string detail;  // failed: what happened
  usage_counts usage;
};
using planner_event = std::variant<want_media, release_media, token_generated, request_ended>;

struct planner_statistics {
  int32_t waiting = 0, waiting_for_media = 0, running = 0;
  int64_t waiting_tokens = 0;
  int32_t blocks_total = 0, blocks_free = 0, blocks_cached = 0, blocks_held = 0;
  int64_t preemptions = 0, prefix_queries = 0, prefix_hits = 0, steps = 0;
  int64_t prompt_tokens = 0, generated_tokens = 0;
};

/// Continuous batching: chunked prefill (through pictures), mixed steps, prefix cache keyed by tokens and
/// picture digests, preemption by recompute, at most two steps in flight so that the next step is planned
/// while the current one runs. Each admitted request yields exactly one request_ended.
class step_planner {
 public:
  explicit step_planner(planner_limits limits);
  ~step_planner();

  admission_result submit(new_request request, time_point now);
  /// Pool rows of the request's spans, concatenated in span order. Late or unknown ids have no effect
  /// and return false (the caller gives the rows back).
  bool media_ready(request_id id, std::vector<int32_t> pool_rows);
  void media_failed(request_id id, const std::string& why);
  /// Ends the request as cancelled; unknown and ended ids have no effect.
  void cancel(request_id id);
  /// Ends everything past its deadline.
  void expire(time_point now);

  /// The next step, if there is work that can run and fewer than two steps are in flight.
  std::optional<plan::step_plan> plan_step();
  /// The agreed result of the oldest step in flight.
  void complete(const plan::step_result& result);

  /// The group was lost: steps in flight have no effect any more, all running requests wait to be
  /// recomputed from prompt and tokens already sent, the prefix cache is empty, plans carry `new_epoch`.
  void reset(uint64_t new_epoch);

  std::vector<planner_event> take_events();
  planner_statistics statistics() const;
  int32_t steps_in_flight() const;
  /// Recounts everything: free + cached + held = all blocks, reference counts, queues, media. Returns the
  /// first contradiction found, empty if none. O(everything): tests and the simulation call it.
  std::string check() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::scheduling
