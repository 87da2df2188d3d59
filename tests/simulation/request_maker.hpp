#pragma once

#include "actors/scheduling/step_planner.hpp"
#include "simulation/toy_model.hpp"

#include <cstdint>
#include <random>
#include <vector>

namespace troupe::simulation {

using random_engine = std::mt19937_64;

/// A number of [low, high]. Unlike std::uniform_int_distribution, the same on every computer.
int32_t pick(random_engine& random, int32_t low, int32_t high);
bool chance(random_engine& random, int32_t percent);

/// A picture, or a clip of several groups with a text token between them.
struct media_template {
  plan::media_digest digest{};
  int32_t groups = 1;
  int32_t grid_height = 1;
  int32_t grid_width = 1;
  int32_t rows() const { return groups * grid_height * grid_width; }
};

/// Limits of one schedule: small everywhere, so that everything runs out.
scheduling::planner_limits make_limits(random_engine& random);

/// Makes requests whose prompts share beginnings, pictures and whole earlier conversations.
class request_maker {
 public:
  request_maker(random_engine& random, const plan::plan_limits& limits);

  scheduling::new_request make(scheduling::request_id id);
  /// A finished conversation: later prompts may continue it.
  void remember(const plan::prompt& prompt, const std::vector<int32_t>& answer);

 private:
  plan::prompt make_prompt();
  void append_piece(plan::prompt& prompt, int32_t piece);
  void append_media(plan::prompt& prompt, const media_template& media);
  plan::sampling_params make_sampling(scheduling::request_id id);

  random_engine& random_;
  plan::plan_limits limits_;
  std::vector<media_template> media_;
  std::vector<plan::prompt> conversations_;  // without positions
};

/// Position ids of Qwen3-VL, written once more and without cleverness.
void place_tokens(plan::prompt& prompt);

}  // namespace troupe::simulation
