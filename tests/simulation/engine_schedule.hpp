#pragma once

#include "actors/engine_on_a_bench.hpp"
#include "simulation/request_maker.hpp"
#include "simulation/violation.hpp"

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe::simulation {

/// What a request must be answered, whatever else goes on in the engine.
struct lone_answer {
  std::string text;
  std::vector<int32_t> tokens;
  int32_t completion_tokens = 0;
};

/// One random history of the real actors: messages in any order that their senders allow, actors
/// that stall, clients that cancel, leave or do not read, shards that die, lie, refuse or answer
/// too late, vision towers that die or lose their device, pictures that fail, deadlines, a drain.
/// Then the faults stop and everything must end.
///
/// After every message: all books balance and no client heard anything after its end. In the end:
/// every client heard exactly one end, for a reason that this history gave; finished answers are
/// those of the request alone, others a beginning of them; nobody holds anything; and the engine
/// serves one more request.
class engine_schedule {
 public:
  engine_schedule(uint64_t seed, coverage& seen, bool verbose);

  /// Throws violation. Returns a hash of everything that happened.
  uint64_t run();

 private:
  struct client_state {
    std::shared_ptr<const actors::completion_request> request;
    lone_answer expected;
    std::chrono::steady_clock::time_point submitted;
    bool cancelled = false;
    bool left = false;
    bool naps = false;  // does not read, so that its request is paused
  };
  enum class rank_fault : uint8_t { none, other_digest, other_token, refusal };

  void act();
  void disturb();
  void submit_some();
  void cancel_somebody();
  void let_somebody_leave();
  void let_somebody_nap();
  void stall_somebody();
  void take_fault();
  void break_a_shard();
  void break_the_tower(bool at_once);
  void let_a_rank_not_join();
  void break_pictures();
  void break_a_graph();
  void drain();
  void pass_time(std::chrono::milliseconds duration);

  /// Gives one message to a seeded choice of the actors that have some and do not stall; false if
  /// none has.
  bool run_one_message();
  caf::result<actors::step_completed> report(int32_t rank, actors::step_completed honest);
  void after_message();

  void finish();
  void run_until_quiet();
  bool everybody_heard_an_end() const;
  void check_client(const client_state& client) const;
  void check_end(const client_state& client, const testing::answer& heard) const;
  void check_answer(const client_state& client, const testing::answer& heard) const;
  bool may_be_rejected(const client_state& client, const testing::answer& heard) const;
  bool may_have_failed(const client_state& client, const testing::answer& heard) const;
  void check_engine_state();
  void serve_one_more();
  void count_what_happened();

  std::shared_ptr<actors::completion_request> make_request();
  client_state& admit(std::shared_ptr<actors::completion_request> request);
  client_state& somebody();
  testing::bench_options make_options();
  std::chrono::steady_clock::time_point now() const;
  bool needs_pictures(const client_state& client) const { return !client.request->media.empty(); }
  void say(const std::string& what) const;
  void note(const char* what, int64_t count = 1) { seen_[what] += count; }

  coverage& seen_;
  bool verbose_;
  random_engine random_;
  testing::bench_options options_;
  testing::engine_bench bench_;
  caf::scheduler::test_coordinator& messages_;
  std::vector<client_state> clients_;
  actors::request_id last_id_ = 0;
  int32_t arrivals_left_;
  int32_t faults_left_;  // that cost a group
  int32_t faults_ = 0;
  int32_t faults_of_the_tower_ = 0;  // those that pictures may be blamed for
  rank_fault armed_ = rank_fault::none;
  caf::actor_id stalled_ = 0;  // 0: nobody
  int32_t stalled_for_ = 0;    // messages of others
  bool draining_ = false;
  bool failed_ = false;
  bool pictures_failed_ = false;
  int64_t num_messages_ = 0;
  uint64_t trace_ = 0;
};

}  // namespace troupe::simulation
