#pragma once

#include "actors/scheduling/request_state.hpp"
#include "actors/scheduling/retry_estimate.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "actors/scheduling/step_writer.hpp"
#include "model/plan/block_pool.hpp"

#include <array>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::scheduling {

/// With two, the device finds the next step in its queue when one ends; a third would only delay
/// what arrives meanwhile.
inline constexpr size_t max_steps_in_flight = 2;

/// What the planner is made of. Requests live in `requests`; all other containers point into it.
///
/// step_planner.cpp    a request's life: submit, media, completion, end, reset
/// batch.cpp           the next step: who is in it, who is admitted, who gives up blocks
/// planner_check.cpp   the recount
struct step_planner::state {
  explicit state(planner_limits planner_limits);

  // -- a request's life (step_planner.cpp) -------------------------------------------------------
  admission_result submit(new_request&& request, time_point now);
  bool media_ready(request_id id, std::vector<int32_t>&& rows);
  void media_failed(request_id id, const std::string& why);
  void cancel(request_id id);
  void pause(request_id id);
  void resume(request_id id);
  void expire(time_point now);
  bool complete(const plan::step_result& result);
  void reset(uint64_t new_epoch);
  void recompute();
  planner_statistics statistics() const;

  request_state* find(request_id id);
  admission_result refuse_if_full(const request_state& request) const;
  /// Puts a request that holds no blocks in line: for its rows if it lacks some, else for its turn.
  void enqueue(request_state& request);
  void complete_chunk(const chunk& part, const plan::step_result& result);
  /// False for what a shard reports when a row's logits were not finite.
  bool is_token(int32_t sampled) const;
  /// Takes the token that `request` was waiting for.
  void take_token(request_state& request, const plan::step_result& result, int32_t row);
  void give_back_media(request_state& request);
  /// Reports the end. The request is gone afterwards unless steps in flight touch it.
  void end(request_state& request, end_reason reason, std::string detail = {});
  /// After every change of `steps_in_flight` or `phase`: gives back what no step touches any more.
  /// The request may be gone afterwards.
  void settle(request_state& request);
  void destroy(request_state& request);
  /// Nothing is in flight or running any more and no request holds blocks.
  void start_over();
  /// Takes back what was computed of a request that starts over; true if there was something.
  bool forget_work(request_state& request);
  /// Puts it in line again, unless it ended.
  void replay(request_state& request);
  /// Where a request goes that holds no blocks: aside if it is to pause, else in line.
  void line_up(request_state& request);

  // -- the next step (batch.cpp) -----------------------------------------------------------------
  std::optional<plan::step_plan> plan_step();

  /// Longest cached prefix of the request in `prefix`; its last known token is always left to
  /// compute.
  void find_prefix(request_state& request);
  int32_t prefix_tokens() const;
  /// True if a token behind the cached prefix needs a visual row that the request has not got.
  bool lacks_rows(const request_state& request) const;
  /// True if the block behind the cached prefix is being computed by an older request.
  bool is_computed_elsewhere(request_state& request);

  /// The oldest request that could run is admitted before anything is drafted, if need be at the
  /// cost of younger ones.
  void admit_oldest();
  void draft_decodes();
  /// Tokens of the step once prompts are drafted beside what is decoded.
  int32_t max_tokens_with_prefills() const;
  void draft_prefills();
  void admit_waiting();
  enum class admission : uint8_t { admitted, lacks_rows, computed_elsewhere, no_room };
  admission admit(request_state& request);
  admission admit_from_line(request_state& request);
  void draft_chunk(request_state& request, int32_t num_tokens);
  plan::step_plan launch();

  const request_state* first_postponed() const;
  bool fits_adjustments(request_state& request);
  void make_room(request_state& request);
  bool grow(request_state& request, int32_t num_tokens);
  void preempt(request_state& request);
  /// Out of the running ones; its blocks follow when no step in flight touches them.
  void stop_running(request_state& request);
  request_state* youngest_preemptible(uint64_t younger_than);
  bool is_protected(const request_state& request) const;
  bool is_oldest(const request_state& request) const;

  /// Blocks to take from the pool to admit the request behind `prefix`.
  int32_t blocks_to_admit(const request_state& request) const;
  /// Blocks the pool can hand out while `prefix` is held.
  int32_t blocks_available() const;
  /// Blocks of requests that are out, but still touched by steps in flight.
  int32_t blocks_draining() const;
  /// Blocks left to running sequences for their next growth when another is admitted.
  int32_t blocks_reserved_for_growth(const request_state& request) const;
  bool protection_is_safe(const request_state& request) const;

  // -- the recount (planner_check.cpp) -----------------------------------------------------------
  std::string check() const;
  std::string check_request(const request_state& request) const;
  std::string check_lines() const;
  std::string check_steps() const;
  std::string check_blocks() const;

  struct step_in_flight {
    uint64_t step = 0;
    plan::digest content;
    size_t num_rows = 0;
    std::vector<chunk> chunks;
  };
  /// The step being formed.
  struct draft_state {
    std::vector<chunk> chunks;
    int32_t num_tokens = 0;
    int32_t max_tokens = 0;  // for whoever is drafted next
    int32_t num_rows = 0;
    int32_t num_adjustments = 0;
    const request_state* first_for_adjustments = nullptr;  // postponed longest
  };

  planner_limits limits;
  plan::block_pool pool;
  uint64_t epoch = 1;
  uint64_t step = 0;  // last one planned in this epoch
  uint64_t arrivals = 0;

  std::map<uint64_t, std::unique_ptr<request_state>> requests;  // by arrival
  std::unordered_map<request_id, request_state*> by_id;         // not ended; never iterated
  std::map<uint64_t, request_state*> line;                      // waiting and preempted, by arrival
  std::vector<request_state*> running;                          // by arrival

  std::deque<step_in_flight> in_flight;
  draft_state draft;
  std::vector<plan::prefix_link> prefix;  // of the request looked at last: find_prefix
  /// Admission failed for want of blocks; not tried again before there is more room than then.
  struct blocked_admission {
    uint64_t arrival = 0;
    int32_t room = 0;
  };
  std::optional<blocked_admission> blocked;

  std::vector<planner_event> events;
  retry_estimate retry;
  int64_t tokens_computed = 0;
  planner_statistics totals;  // only the counters that never fall
};

}  // namespace troupe::scheduling
