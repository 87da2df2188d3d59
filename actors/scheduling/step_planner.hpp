#pragma once

#include "model/plan/prefix_index.hpp"
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
  int32_t max_prefill_tokens_beside_decode = 0;  // of a step; 0: whatever the step has room for
  int32_t max_preemptions = 3;  // then a request is protected
  int32_t max_replays = 3;      // after lost groups; then it fails
  bool prefix_cache = true;
  plan::prefix_hashing prefix_hashing = plan::random_prefix_hashing();
};

/// A validated request with an id never used before. `prompt` spans carry digests.
struct new_request {
  request_id id = 0;
  plan::prompt prompt;
  plan::sampling_params sampling;
  time_point deadline;
};

enum class rejection : uint8_t {
  queue_full,            // try again later
  too_long,              // over the context, or over all KV blocks there are
  too_many_visual_rows,  // over the visual pool
  too_many_adjustments,  // penalties and bias on more token ids than a step can carry
  malformed  // contradicts itself or the vocabulary; whoever validates should have said so
};
struct admission_result {
  std::optional<rejection> rejected;         // empty: admitted
  std::string detail;                        // found and limit
  std::chrono::milliseconds retry_after{0};  // queue_full: the planner's own estimate
};

enum class end_reason : uint8_t { stop, length, cancelled, failed, deadline };

struct usage_counts {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t visual_tokens = 0;
  int32_t completion_tokens = 0;
};

/// Ask the encoder for the request's visual rows. Not sent as long as the prefix cache covers all
/// of its pictures; sent again when a preempted request needs them once more.
struct want_media {
  request_id id;
};
/// Give the rows back, or forget the order if they never came: no step in flight reads them any
/// more. Every want_media is followed by exactly one.
struct release_media {
  request_id id;
};
/// Sent for every generated token, the one that ends the request included.
struct token_generated {
  request_id id;
  int32_t index = 0;  // 0-based, gap-free over preemptions and replays
  int32_t token = 0;
  plan::token_logprobs logprobs;
  usage_counts usage = {};  // up to this token
};
struct request_ended {
  request_id id;
  end_reason reason = end_reason::stop;
  std::string detail;  // failed: what happened; deadline: what was reached
  usage_counts usage;
};
/// What the actor around the planner must do, in order.
using planner_event = std::variant<want_media, release_media, token_generated, request_ended>;

struct planner_statistics {
  int32_t waiting = 0, waiting_for_media = 0, running = 0, paused = 0;
  int64_t waiting_tokens = 0;
  int32_t blocks_total = 0, blocks_free = 0, blocks_cached = 0, blocks_held = 0;
  int64_t preemptions = 0, replays = 0, steps = 0;
  int64_t prefix_queries = 0, prefix_hits = 0;  // prompt tokens looked up and found
  int64_t prompt_tokens = 0, generated_tokens = 0;
};

/// Continuous batching: chunked prefill (through pictures), mixed steps, prefix cache keyed by
/// tokens and picture digests, preemption by recompute, at most two steps in flight so that the
/// next step is planned while the current one runs. Each admitted request yields exactly one
/// request_ended.
///
/// A request's life; every phase can also go to `ended` (cancelled, deadline, failed):
///
///   submit ──► waiting_for_media ──► waiting ──► running ──► ended
///      │              ▲              ▲  │  ▲        │
///      │              └── evicted ───┼──┘  │        │
///      └── no picture, or cached ────┘     └─ preempted, or group lost
///
/// Order is by age and total: the oldest request that could run is part of every step that has work
/// for it, if need be at the cost of the youngest, whose blocks are taken and whose tokens are
/// recomputed later. (It sits out the steps during which those blocks are still in use.) After
/// `max_preemptions` of these a request is protected: it comes back only with all blocks it may
/// ever need, and only if every older request could still get all of its own. So the oldest always
/// progresses and nobody is put back for ever.
///
/// A request whose next block an older one is computing waits for it: equal prompts are computed
/// once.
///
/// A paused request is out of all lines and holds nothing, so that nobody waits for its client; its
/// blocks stay in the prefix cache as long as no other needs them. It comes back at its old place.
///
/// Blocks and visual rows are given back only after every step in flight that touches them is
/// complete, also when the request ended long before.
class step_planner {
 public:
  explicit step_planner(planner_limits limits);
  ~step_planner();

  admission_result submit(new_request request, time_point now);
  /// Pool rows of the request's spans, concatenated in span order. Late or unknown ids have no
  /// effect and return false (the caller gives the rows back).
  bool media_ready(request_id id, std::vector<int32_t> pool_rows);
  void media_failed(request_id id, const std::string& why);
  /// Ends the request as cancelled; unknown and ended ids have no effect.
  void cancel(request_id id);
  /// No more tokens for this request, but those of steps in flight, until it is resumed. Unknown
  /// and ended ids have no effect.
  void pause(request_id id);
  void resume(request_id id);
  /// Ends everything past its deadline.
  void expire(time_point now);

  /// The next step, if there is work that can run and fewer than two steps are in flight.
  std::optional<plan::step_plan> plan_step();
  /// The agreed result of the oldest step in flight. False, and no effect, if it is not that: a
  /// late result of another epoch or step, or of a plan with another digest or number of rows.
  bool complete(const plan::step_result& result);

  /// The group was lost: steps in flight have no effect any more, all running requests wait to be
  /// recomputed from prompt and tokens already sent, the prefix cache is empty, plans carry
  /// `new_epoch`.
  void reset(uint64_t new_epoch);
  /// What steps computed so far is not to be trusted, beyond the tokens already sent: running
  /// requests wait to be recomputed from these by the same group, the prefix cache is empty, blocks
  /// that held anything are cleared. Steps that were in flight have no effect; no shard may work on
  /// them any more.
  void recompute();

  std::vector<planner_event> take_events();
  planner_statistics statistics() const;
  int32_t steps_in_flight() const;
  /// Recounts everything: free + cached + held = all blocks, reference counts, queues, media.
  /// Returns the first contradiction found, empty if none. O(everything): tests and the simulation
  /// call it.
  std::string check() const;

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::scheduling
