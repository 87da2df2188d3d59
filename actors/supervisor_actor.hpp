#pragma once

#include "actors/engine_messages.hpp"
#include "transport/symmetric_arena.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace troupe::actors {

struct supervisor_options {
  /// Everything of a shard but rank, epoch, backend, lanes and descriptors.
  shard_options shard;
  /// Everything of the vision tower but descriptors.
  vision_tower_options tower;
  std::vector<gpu::backend_options> backends;  // [tp_size]
  transport::group_placement symmetric;
  std::vector<transport::lane_request> lanes;
  int visual_pool_descriptor = -1;
  int staging_descriptor = -1;
  bool isolated = false;  // every shard in a process of its own, which takes a lost device along when it ends
  /// Makes the actor that starts the shard of one rank.
  std::function<shard_launcher_actor(caf::actor_system&)> make_launcher;

  std::chrono::milliseconds launch_timeout{300'000};    // longer than a launcher waits for its child
  std::chrono::milliseconds open_timeout{1'800'000};    // weights of hundreds of GB from a slow disk
  std::chrono::milliseconds join_timeout{10'000};       // each of both messages that it takes
  std::chrono::milliseconds departure_timeout{3'000};   // an old shard that has not gone by then is left
  std::chrono::milliseconds tower_timeout{300'000};     // an old vision tower must go: then the engine failed
  int32_t max_losses = 3;                               // of groups within `loss_window`: then give up
  std::chrono::milliseconds loss_window{60'000};

  inner_gateway_actor gateway;
  scheduler_actor scheduler;
  vision_encoder_actor encoder;
  std::vector<std::pair<std::string, caf::actor>> watched;  // others whose end is the engine's end
};

/// Starts the engine and keeps the tensor-parallel group alive, with the vision tower beside the shard of
/// rank 0:
///
///            all opened, digests equal
///   opening --------------------------> serving
///     ^  \                               |
///     |   \ a member fails or dies, in either state; the scheduler sees a step fail
///     |    v                             v
///   departing: the shared memory is aborted, so that all leave their step. Members not known to have
///     |        lost the group are asked to join the next one: they stay, with process, weights, graphs
///     |        and (rank 0) the vision tower. All others are told to go, as is who does not join in time.
///     |        When everybody joined or is gone (or too slow to go) a new group opens, with a new epoch, new
///     |        symmetric memory, and new members in the place of those that went. Visual pool and staging
///     |        memory stay, so an old tower must have gone: it could write into rows given to others
///     v
///   failed: too many losses in a short time, or a fault that will not go away (such as a lost device of
///           this process)
///
/// Who stays, by what is known of the loss. One rank ended or failed: all others. Ranks are late: whoever
/// still answers, unless a group was lost shortly before. Anything else (ranks that disagree): nobody.
///
/// Ranks that open together warm up together. One that opens among such that stay does so alone, on the
/// memory of an aborted group, where no collective waits for anybody, and joins afterwards as they did.
class supervisor_core {
 public:
  using self_pointer = supervisor_actor::stateful_pointer<struct supervisor_state>;

  supervisor_core(self_pointer self, supervisor_options options);

  void start();
  void take_progress(const shard_progress& progress);
  void lose(const group_lost& lost);
  void somebody_died(const caf::down_msg& down);
  void tick();
  void stop(const caf::error& reason);

 private:
  enum class stage : uint8_t { opening, serving, departing, failed, stopping };
  struct member {
    uint64_t life = 0;         // answers to what an earlier member was asked have no effect
    bool stays = false;        // of an earlier group: was asked to join this one
    shard_launcher_actor launcher;
    shard_actor shard;         // null until launched
    vision_tower_actor tower;  // of rank 0 alone
    bool opened = false;       // and, if it must, joined
    bool tower_opened = false;
    gpu::digest128 graphs{};
    loading_progress progress;
    bool launcher_gone = false;
    bool shard_gone = false;
    bool tower_gone = false;

    bool complete() const { return opened && (!tower || tower_opened); }
    bool gone() const {
      return launcher_gone && (!shard || shard_gone) && (!tower || tower_gone);
    }
    bool settled() const { return stays ? opened : gone(); }
  };
  /// Whom something was asked, and for which group.
  struct question {
    int32_t rank = 0;
    uint64_t life = 0;
    uint64_t epoch = 0;
  };

  member& at(int32_t rank) { return members_[static_cast<size_t>(rank)]; }
  question ask(int32_t rank) { return {rank, at(rank).life, epoch_}; }
  bool is_current(const question& asked) const;
  bool somebody_stays() const;

  void open_group();
  void make_memory();
  void launch(int32_t rank);
  void open(int32_t rank, const shard_launched& launched);
  void open_shard_of(int32_t rank, const shard_launched& launched);
  void open_tower_of(int32_t rank, const shard_launched& launched);
  void take_failure(const question& asked, const char* what, const caf::error& failure);
  void hand_memory_to(int32_t rank);
  void join(int32_t rank, const handed_over& memory);
  void take_joined(int32_t rank, const shard_opened& opened);
  void take_join_failure(const question& asked, const caf::error& failure);
  void announce_if_complete();
  void announce();
  std::string graph_disagreement() const;
  bool give_up_after(const group_lost& lost);
  bool may_stay(int32_t rank, const group_lost& lost) const;
  void keep_members(const group_lost& lost);
  void dismiss(int32_t rank);
  void dismiss_all();
  void let_go(int32_t rank);
  void wait_for_departures();
  void go_on_if_settled();
  void leave_behind();
  void departure_is_over();
  void fail(std::string why);
  bool too_many_losses();
  void report_progress();
  void tell(engine_phase phase, std::string detail, loading_progress progress);

  self_pointer self_;
  supervisor_options options_;
  stage stage_ = stage::opening;
  uint64_t epoch_ = 0;
  uint64_t tower_epoch_ = 0;  // under which the encoder knows the tower
  uint64_t num_lives_ = 0;
  std::optional<transport::symmetric_memory> memory_;  // of the group of `epoch_`
  std::vector<transport::symmetric_memory> aborted_;   // of groups since the last that was ready; newest last
  std::vector<member> members_;                        // [tp_rank]
  std::deque<scheduling::time_point> losses_;
  group_lost last_loss_;
  std::optional<scheduling::time_point> recovery_began_;  // with the first loss since a group was ready
  recovery_statistics recovery_;
  scheduling::time_point departure_began_;
  caf::error stop_reason_;
};

struct supervisor_state {
  std::unique_ptr<supervisor_core> core;
  static inline const char* name = "supervisor";
};

supervisor_actor::behavior_type supervisor(
    supervisor_actor::stateful_pointer<supervisor_state> self, supervisor_options options);

}  // namespace troupe::actors
