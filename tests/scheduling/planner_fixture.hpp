#pragma once

#include "actors/scheduling/step_planner.hpp"

#include <boost/test/unit_test.hpp>

#include <cstdint>
#include <optional>
#include <vector>

namespace troupe::scheduling_test {

/// A planner and the little world around it. Small by default: blocks of 4 tokens, 16 tokens a
/// step. Tests change `limits` before the first call.
struct planner_fixture {
  planner_fixture();

  /// A text prompt of `num_tokens` ids that no other request shares, greedy, without end tokens.
  static scheduling::new_request text_request(scheduling::request_id id, int32_t num_tokens,
                                              int32_t max_tokens);
  /// The same with one picture of `rows` tokens from token `first_token` on.
  static scheduling::new_request picture_request(scheduling::request_id id, int32_t num_tokens,
                                                 int32_t max_tokens, int32_t first_token,
                                                 int32_t rows);

  scheduling::step_planner& planner();
  scheduling::admission_result submit(scheduling::new_request request);
  void submit_text(scheduling::request_id id, int32_t num_tokens, int32_t max_tokens);

  /// The next step; the test fails if there is none.
  plan::step_plan plan_step();
  bool can_plan();
  /// Completes the oldest planned step; every row samples `token`, or `tokens` in order.
  void complete(int32_t token = 50);
  void complete_with(std::vector<int32_t> tokens);
  /// Plans and completes `steps` steps, one at a time.
  void run_steps(int32_t steps, int32_t token = 50);

  std::vector<scheduling::planner_event> take_events();
  /// Of the events so far: ids that ended with `reason`, tokens of a request, ids of requests that
  /// want rows.
  std::vector<scheduling::request_id> ended(scheduling::end_reason reason);
  std::vector<int32_t> tokens_of(scheduling::request_id id);
  template <class Event>
  int32_t count(scheduling::request_id id) {
    collect();
    int32_t found = 0;
    for (const auto& event : events) {
      const auto* typed = std::get_if<Event>(&event);
      found += typed != nullptr && typed->id == id;
    }
    return found;
  }
  std::optional<scheduling::request_ended> end_of(scheduling::request_id id);

  void collect();

  scheduling::planner_limits limits;
  std::optional<scheduling::step_planner> made;
  std::vector<plan::step_plan> planned;  // not completed, oldest first
  std::vector<scheduling::planner_event> events;
  scheduling::time_point now{};
};

/// New tokens of each sequence of a step.
std::vector<int32_t> chunk_sizes(const plan::step_plan& plan);

}  // namespace troupe::scheduling_test
