#pragma once

#include "actors/engine_messages.hpp"
#include "actors/gateway_actor.hpp"
#include "actors/scheduler_actor.hpp"
#include "actors/supervisor_actor.hpp"
#include "actors/vision_encoder_actor.hpp"
#include "answers.hpp"
#include "config/model_config.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/vision/vision_staging.hpp"
#include "simulation/toy_model.hpp"

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scheduler/test_coordinator.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

/// The engine's real actors on CAF's test coordinator: one thread, one message at a time, a clock advanced by
/// hand. Only what computes is faked: pixels, vision tower, and shards that run the toy model, whose every
/// token depends on the whole history and all rows.
namespace troupe::testing {

/// How the fakes behave; tests change it while the engine runs.
struct fake_behaviours {
  bool shards_are_silent = false;
  bool tower_is_silent = false;  // until it gets a tick
  std::set<int32_t> refuse_to_join;  // ranks, each once
  std::set<int32_t> silent_to_join;
  bool tower_fails = false;
  int32_t tower_loses_device = 0;  // with so many runs to come
  std::optional<actors::refusal> refuse_pictures;
  /// What a rank reports instead of its honest result.
  std::function<caf::result<actors::step_completed>(int32_t rank, actors::step_completed honest)> on_step;
  std::function<gpu::digest128(int32_t rank, uint64_t epoch)> graphs;
  std::set<int32_t> broken_graphs;  // buckets: what all ranks' graphs sample is wrong
  std::vector<simulation::broken_logits> broken_logits;
};

/// What the fakes did.
struct fake_records {
  std::vector<actors::shard_actor> shards;      // [rank] of the newest group
  actors::vision_tower_actor tower;             // of the newest group
  std::vector<uint64_t> epochs;                 // of groups, as rank 0 opened in them or joined them
  std::vector<int32_t> launches;                // of each rank
  int32_t joins_refused = 0;
  std::vector<plan::media_digest> encoded;      // in the order of the tower
  int32_t devices_lost = 0;                     // by towers
  int32_t pictures_processed = 0;
  int64_t steps = 0;                            // run by rank 0
  std::map<actors::step_order, int64_t> orders; // of rank 0's
  std::vector<std::string> refused_plans;       // why
  std::map<std::pair<uint64_t, uint64_t>, plan::digest> plans;  // by epoch and step, as the first rank saw it
  bool ranks_saw_different_plans = false;
};

/// What the fakes share with each other and with the test.
struct fake_machine {
  fake_behaviours behave;
  fake_records seen;
  plan::plan_limits limits;
  simulation::visual_pool_values pool;
  std::shared_ptr<const model::vision_staging> staging;
};

struct bench_options {
  int32_t ranks = 2;
  bool isolated = true;  // what the supervisor takes the fakes for
  int32_t num_blocks = 200;
  int32_t max_num_seqs = 4;
  int32_t max_num_batched_tokens = 32;
  int32_t visual_pool_rows = 64;
  int32_t max_preparing_requests = 16;
  int32_t max_waiting_requests = 16;
  int64_t max_model_len = 256;
  std::chrono::milliseconds request_deadline{60'000};
  int32_t verify_every = 0;
};

/// Deterministic without threads; renders our errors.
struct bench_system_config : caf::actor_system_config {
  bench_system_config();
};

class engine_bench {
 public:
  explicit engine_bench(bench_options options = {});
  ~engine_bench();

  /// A text of so many prompt tokens; greedy, `max_tokens` answers.
  std::shared_ptr<actors::completion_request> text_request(const std::string& text, int32_t max_tokens);
  /// A picture and a question. Equal `picture` texts are equal pictures.
  std::shared_ptr<actors::completion_request> picture_request(const std::string& picture,
                                                              int32_t max_tokens);
  /// The same with a clip of `groups` temporal groups of a picture's size.
  std::shared_ptr<actors::completion_request> clip_request(const std::string& clip, int32_t groups,
                                                           int32_t max_tokens);

  /// Submits and returns the id; the answer grows as the engine runs.
  actors::request_id submit(std::shared_ptr<const actors::completion_request> request);
  void cancel(actors::request_id id);
  void pause(actors::request_id id);
  void resume(actors::request_id id);
  void kill_sink(actors::request_id id);

  /// Until no actor has anything to do. Time does not pass.
  void run() { scheduler_.run(); }
  /// At most `jobs` actor activations.
  void run_some(size_t jobs) { scheduler_.run(jobs); }
  /// One activation of an actor that `pick` chooses among those with something to do (index below its
  /// argument). False if there is none.
  bool run_one(const std::function<size_t(size_t)>& pick);
  /// Runs, and lets `duration` pass in steps of `step`.
  void pass(std::chrono::milliseconds duration,
            std::chrono::milliseconds step = std::chrono::milliseconds{50});

  const answer& of(actors::request_id id) const { return *answers_.at(id); }
  /// The tokens this request gets when nothing else happens.
  std::vector<int32_t> tokens_alone(const actors::completion_request& request) const;

  actors::engine_status status();
  const actors::scheduler_core& scheduler_core() const;
  const actors::vision_encoder_core& encoder_core() const;
  const actors::gateway_core& gateway_core() const;
  /// The first contradiction in any of the books.
  std::string check() const;
  /// Whether nobody holds or waits for anything.
  bool idle() const;

  fake_behaviours& fakes() { return machine_->behave; }
  const fake_records& seen() const { return machine_->seen; }
  actors::inner_gateway_actor gateway;
  actors::scheduler_actor scheduler;
  actors::vision_encoder_actor encoder;
  actors::supervisor_actor supervisor;
  caf::actor_system& system() { return system_; }

 private:
  void spawn_actors();
  plan::plan_limits limits() const;

  bench_options options_;
  bench_system_config config_;
  caf::actor_system system_;
  caf::scheduler::test_coordinator& scheduler_;
  std::shared_ptr<const config::checkpoint_config> checkpoint_;
  std::shared_ptr<const model::tokenizer> tokenizer_;
  std::shared_ptr<fake_machine> machine_;
  std::map<actors::request_id, std::shared_ptr<answer>> answers_;
  std::map<actors::request_id, caf::actor> sinks_;
};

}  // namespace troupe::testing
