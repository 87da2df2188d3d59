#pragma once

#include "actors/scheduling/step_planner.hpp"
#include "simulation/fake_encoder.hpp"
#include "simulation/request_maker.hpp"
#include "simulation/toy_model.hpp"
#include "simulation/violation.hpp"

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace troupe::simulation {

/// One random history of a planner among fake clients, a fake encoder and a toy shard: arrivals,
/// late and failed pictures, delayed steps, cancellations, deadlines, lost groups, results that are
/// not to be trusted, broken logits. Then the faults stop and everything must end.
///
/// After every event: the planner's own recount. For every plan: no faults. For every request:
/// exactly one end, and the tokens it would have got alone.
class planner_schedule {
 public:
  planner_schedule(uint64_t seed, coverage& seen);

  /// Throws violation. Returns a hash of everything that happened.
  uint64_t run();

 private:
  struct client_state {
    plan::prompt prompt;
    plan::sampling_params sampling;
    solo_run expected;
    scheduling::time_point deadline;
    std::vector<int32_t> tokens;
    std::optional<scheduling::end_reason> end;
    bool cancelled = false;
    bool paused = false;
    bool media_failed = false;
    int32_t wants = 0;
    int32_t releases = 0;
  };
  struct planned_step {
    plan::step_plan plan;
    std::optional<plan::step_result> result;  // once the shard ran it
  };

  void act();
  void disturb();
  void submit();
  void plan_step();
  void run_oldest_step();
  void complete_oldest_step();
  void complete_wrongly();
  void serve_media();
  void fail_media();
  void cancel_somebody();
  void pause_or_resume_somebody();
  void pass_time();
  void lose_group();
  void recompute();
  void finish();

  void check_plan(const plan::step_plan& plan);
  void note_plan(const plan::step_plan& plan);
  void after_event();
  void handle(const scheduling::want_media& event);
  void handle(const scheduling::release_media& event);
  void handle(const scheduling::token_generated& event);
  void handle(const scheduling::request_ended& event);
  void check_end(client_state& client, const scheduling::request_ended& event);
  bool is_live(scheduling::request_id id) const;
  void note(const char* what, int64_t count = 1) { seen_[what] += count; }
  void expect(bool condition, const std::string& what) const;

  coverage& seen_;
  random_engine random_;
  scheduling::planner_limits limits_;
  scheduling::step_planner planner_;
  toy_shard shard_;
  fake_encoder encoder_;
  request_maker maker_;
  std::map<scheduling::request_id, client_state> clients_;
  std::vector<broken_logits> broken_;
  std::deque<planned_step> steps_;
  scheduling::time_point now_{};
  scheduling::request_id last_id_ = 0;
  uint64_t epoch_ = 1;
  uint64_t last_step_ = 0;
  uint64_t trace_ = 0;
  int32_t arrivals_left_;
  int32_t faults_percent_;
};

}  // namespace troupe::simulation
