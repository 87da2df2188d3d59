#pragma once

#include "actors/engine_messages.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "actors/scheduling/verification_schedule.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <chrono>
#include <deque>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::actors {

struct scheduler_options {
  scheduling::planner_limits limits;
  std::chrono::milliseconds step_timeout{30'000};  // a shard silent for longer is lost
  int32_t verify_every = 0;  // one of so many steps also runs without its graph, to compare; 0: none
  detokenizer_actor detokenizer;
  vision_encoder_actor vision_encoder;
};

/// The planner among actors. It decides nothing itself: it asks the encoder for rows when the planner wants
/// them, gives each planned step to all ranks, and takes a step's result only if every rank reports the
/// plan's digest and the same tokens. Whatever else happens to a step loses the whole group: the planner
/// then starts over from what the clients already have, as soon as the supervisor brings a new group.
///
/// It also says how each step is run: by its bucket's graph, or, for a sample of them, also without it to
/// compare. A graph that gives other bits is quarantined: its bucket runs without it as long as any rank may
/// have it, over groups. What clients got of a verified step is what ran without a graph; what graphs
/// computed before it is not trusted: all running requests are recomputed from the tokens already sent.
class scheduler_core {
 public:
  using self_pointer = scheduler_actor::stateful_pointer<struct scheduler_state>;

  scheduler_core(self_pointer self, scheduler_options options);

  scheduling::admission_result submit(const schedule_request& message);
  void cancel(request_id id);
  void pause(request_id id);
  void resume(request_id id);
  void use_group(const group_ready& group);
  void lose_group(const group_lost& lost);
  void tick();
  scheduler_statistics statistics() const;

  const scheduling::step_planner& planner() const { return planner_; }

 private:
  struct admitted {
    std::shared_ptr<const completion_request> request;
    std::shared_ptr<const plan::prompt> prompt;
    scheduling::time_point deadline;
    int32_t media_attempt = 0;  // answers of the encoder to an older attempt have no effect
  };
  /// A step that every rank works on or will.
  struct step_in_flight {
    std::shared_ptr<const plan::step_plan> plan;
    step_order order = step_order::replay;
    std::vector<bool> reported = {};               // [rank]
    size_t missing = 0;                            // ranks that have not reported
    std::optional<plan::step_result> result = {};  // of the first rank that did
    std::string difference = {};                   // what a rank's graph got wrong
  };

  scheduling::time_point now() const;
  void advance();
  void dispatch(plan::step_plan plan);
  step_order order_for(const plan::step_plan& plan);
  void send(std::shared_ptr<const plan::step_plan> plan, step_order order);
  void recheck_in_pause();
  void take_result(int32_t rank, uint64_t epoch, const step_completed& completed);
  void take_failure(int32_t rank, uint64_t epoch, uint64_t step, const caf::error& failure);
  void finish_steps();
  void finish(const step_in_flight& done);
  void quarantine(const step_in_flight& wrong);
  void forget_steps();
  void lose(std::string reason, bool device_lost = false, loss_cause cause = loss_cause::unknown,
            int32_t rank = -1);
  void deliver_events();
  void acquire_media(request_id id);
  void release_media(request_id id);
  void take_media(request_id id, int32_t attempt, const rows_acquired& rows);
  void take_media_failure(request_id id, int32_t attempt, const caf::error& failure);
  bool is_current(request_id id, int32_t media_attempt) const;
  void keep_ticking();

  self_pointer self_;
  scheduler_options options_;
  scheduling::step_planner planner_;
  std::optional<group_ready> group_;  // empty while there is none to run steps
  uint64_t epoch_ = 0;                // of the planner
  std::deque<step_in_flight> steps_;  // oldest first

  scheduling::verification_schedule verification_;
  std::shared_ptr<const plan::step_plan> last_replayed_;  // nothing else ran since
  std::set<int32_t> quarantined_;                         // buckets whose graph is not used
  bool distrusted_ = false;  // a graph got something wrong; no step is planned before all have ended
  int64_t steps_verified_ = 0;
  int64_t mismatches_ = 0;

  std::unordered_map<request_id, admitted> requests_;
  bool ticking_ = false;
  int64_t graph_captures_after_start_ = 0;
  int64_t arena_allocations_after_start_ = 0;
};

struct scheduler_state {
  std::unique_ptr<scheduler_core> core;
  static inline const char* name = "scheduler";
};

scheduler_actor::behavior_type scheduler(scheduler_actor::stateful_pointer<scheduler_state> self,
                                         scheduler_options options);

}  // namespace troupe::actors
