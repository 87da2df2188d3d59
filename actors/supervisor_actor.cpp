#include "actors/supervisor_actor.hpp"

#include "actors/errors.hpp"

#include <caf/actor_clock.hpp>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace troupe::actors {
namespace {

constexpr const char* phase_starting = "starting";
constexpr const char* phase_restarting = "restarting shards";
constexpr loading_progress restarting() { return {phase_restarting, 0, 0, 0, false}; }

}  // namespace

supervisor_core::supervisor_core(self_pointer self, supervisor_options options)
    : self_(self),
      options_(std::move(options)),
      members_(static_cast<size_t>(options_.shard.tp_size)) {}

void supervisor_core::start() {
  self_->monitor(options_.scheduler);
  for (const auto& [name, actor] : options_.watched) self_->monitor(actor);
  ++epoch_;
  open_group();
}

bool supervisor_core::is_current(const question& asked) const {
  return asked.epoch == epoch_ && asked.life == members_[static_cast<size_t>(asked.rank)].life &&
         (stage_ == stage::opening || stage_ == stage::departing);
}

bool supervisor_core::somebody_stays() const {
  return std::any_of(members_.begin(), members_.end(), [](const member& m) { return m.stays; });
}

// -- opening ------------------------------------------------------------------------------------------------

/// New members in the place of all that did not stay.
void supervisor_core::open_group() {
  stage_ = stage::opening;
  if (!somebody_stays()) {
    try {
      make_memory();
    } catch (const std::exception& failure) {
      return fail(fmt::format("symmetric memory: {}", failure.what()));
    }
  }
  for (int32_t rank = 0; rank < std::ssize(members_); ++rank)
    if (!at(rank).stays) launch(rank);
  announce_if_complete();
}

/// Where nobody stays, there need not be room for the old memory as well.
void supervisor_core::make_memory() {
  aborted_.clear();
  memory_.reset();
  memory_.emplace(options_.shard.tp_size, options_.lanes, options_.symmetric);
}

void supervisor_core::launch(int32_t rank) {
  auto& joining = at(rank);
  joining = {};
  joining.life = ++num_lives_;
  joining.launcher = options_.make_launcher(self_->system());
  joining.progress = epoch_ == 1 ? loading_progress{phase_starting, 0, 0, 0, false} : restarting();
  self_->monitor(joining.launcher);
  const auto& memory = somebody_stays() ? aborted_.back() : *memory_;
  self_->request(joining.launcher, options_.launch_timeout,
                 launch_shard{rank == tower_rank, memory.file_descriptors(),
                              options_.visual_pool_descriptor, options_.staging_descriptor})
      .then(
          [this, asked = ask(rank)](const shard_launched& launched) {
            if (is_current(asked)) open(asked.rank, launched);
          },
          [this, asked = ask(rank)](const caf::error& failure) {
            take_failure(asked, "start", failure);
          });
}

void supervisor_core::open(int32_t rank, const shard_launched& launched) {
  auto& joining = at(rank);
  joining.shard = launched.shard;
  joining.tower = launched.tower;
  self_->monitor(joining.shard);
  if (joining.tower) self_->monitor(joining.tower);
  open_shard_of(rank, launched);
  if (joining.tower) open_tower_of(rank, launched);
}

void supervisor_core::open_shard_of(int32_t rank, const shard_launched& launched) {
  auto options = options_.shard;
  options.tp_rank = rank;
  options.epoch = epoch_;
  options.backend = options_.backends.at(static_cast<size_t>(rank));
  options.lanes = options_.lanes;
  options.symmetric_descriptors = launched.symmetric_descriptors;
  options.visual_pool_descriptor = launched.visual_pool_descriptor;
  options.alone = somebody_stays();
  self_->request(launched.shard, options_.open_timeout, open_shard{options})
      .then(
          [this, asked = ask(rank), alone = options.alone](const shard_opened& opened) {
            if (!is_current(asked)) return;
            alone ? hand_memory_to(asked.rank) : take_joined(asked.rank, opened);
          },
          [this, asked = ask(rank)](const caf::error& failure) {
            take_failure(asked, "open", failure);
          });
}

void supervisor_core::open_tower_of(int32_t rank, const shard_launched& launched) {
  auto options = options_.tower;
  options.visual_pool_descriptor = launched.visual_pool_descriptor;
  options.staging_descriptor = launched.staging_descriptor;
  self_->request(launched.tower, options_.open_timeout, open_vision_tower{std::move(options)})
      .then(
          [this, asked = ask(rank)](const vision_tower_opened&) {
            if (!is_current(asked)) return;
            at(asked.rank).tower_opened = true;
            announce_if_complete();
          },
          [this, asked = ask(rank)](const caf::error& failure) {
            take_failure(asked, "open its vision tower", failure);
          });
}

void supervisor_core::take_failure(const question& asked, const char* what, const caf::error& failure) {
  if (!is_current(asked)) return;
  const auto why = fmt::format("rank {} did not {}: {}", asked.rank, what, describe(failure));
  // A checkpoint or setting does not get better by trying again.
  if (is(failure, engine_error::bad_configuration)) return fail(why);
  lose({epoch_, why, is(failure, engine_error::device_lost), loss_cause::rank, asked.rank});
}

// -- joining ------------------------------------------------------------------------------------------------

/// A member that is open, whether it stays or is new among such, takes part in the group of `epoch_`.
void supervisor_core::hand_memory_to(int32_t rank) {
  self_->request(at(rank).launcher, options_.join_timeout, hand_over{memory_->file_descriptors()})
      .then(
          [this, asked = ask(rank)](const handed_over& memory) {
            if (is_current(asked)) join(asked.rank, memory);
          },
          [this, asked = ask(rank)](const caf::error& failure) { take_join_failure(asked, failure); });
}

void supervisor_core::join(int32_t rank, const handed_over& memory) {
  self_->request(at(rank).shard, options_.join_timeout,
                 join_group{epoch_, memory.symmetric_descriptors})
      .then(
          [this, asked = ask(rank)](const shard_opened& joined) {
            if (is_current(asked)) take_joined(asked.rank, joined);
          },
          [this, asked = ask(rank)](const caf::error& failure) { take_join_failure(asked, failure); });
}

void supervisor_core::take_joined(int32_t rank, const shard_opened& opened) {
  auto& joined = at(rank);
  joined.opened = true;
  joined.graphs = opened.graphs;
  joined.progress.percent = 100;
  stage_ == stage::departing ? go_on_if_settled() : announce_if_complete();
}

/// Who stays may yet be the one that the others waited for.
void supervisor_core::take_join_failure(const question& asked, const caf::error& failure) {
  if (!is_current(asked)) return;
  if (stage_ == stage::opening) return take_failure(asked, "join", failure);
  const group_lost lost{epoch_,
                        fmt::format("rank {} did not join: {}", asked.rank, describe(failure)),
                        is(failure, engine_error::device_lost), loss_cause::rank, asked.rank};
  if (give_up_after(lost)) return;
  spdlog::warn("{}; it is started anew", lost.reason);
  let_go(asked.rank);
}

// -- serving ------------------------------------------------------------------------------------------------

std::string supervisor_core::graph_disagreement() const {
  for (size_t rank = 1; rank < members_.size(); ++rank) {
    const auto& found = members_[rank].graphs;
    const auto& expected = members_.front().graphs;
    if (found != expected)
      return fmt::format("rank {} captured graphs with digest {:016x}{:016x}, rank 0 has {:016x}{:016x}",
                         rank, found[1], found[0], expected[1], expected[0]);
  }
  return {};
}

void supervisor_core::announce_if_complete() {
  if (stage_ != stage::opening) return;
  if (!std::all_of(members_.begin(), members_.end(), [](const member& m) { return m.complete(); })) return;
  if (auto why = graph_disagreement(); !why.empty()) return lose({epoch_, std::move(why)});
  stage_ = stage::serving;
  aborted_.clear();
  announce();
}

void supervisor_core::announce() {
  const auto kept = std::count_if(members_.begin(), members_.end(), [](const member& m) { return m.stays; });
  spdlog::info("group of {} shards ready, epoch {}", members_.size(), epoch_);
  if (recovery_began_) {
    recovery_.ranks_kept += kept;
    recovery_.ranks_replaced += std::ssize(members_) - kept;
    recovery_.last_seconds =
        std::chrono::duration<double>(self_->clock().now() - *recovery_began_).count();
    spdlog::info("{} ranks were kept, {} started anew, {:.1f} s after the loss", kept,
                 std::ssize(members_) - kept, recovery_.last_seconds);
    recovery_began_.reset();
  }
  const auto watcher = caf::actor_cast<group_watcher>(self_);
  group_ready ready{epoch_, {}, watcher, kept > 0};
  for (const auto& joined : members_) ready.shards.push_back(joined.shard);
  const auto& host = at(tower_rank);
  if (host.stays) self_->send(host.tower, count_anew{});
  tower_epoch_ = epoch_;
  self_->send(options_.encoder, tower_ready{epoch_, host.tower, watcher});
  self_->send(options_.scheduler, std::move(ready));
  tell(engine_phase::ready, {}, {});
}

void supervisor_core::tell(engine_phase phase, std::string detail, loading_progress progress) {
  self_->send(options_.gateway,
              phase_changed{phase, std::move(detail), std::move(progress), recovery_});
}

void supervisor_core::take_progress(const shard_progress& progress) {
  if (stage_ != stage::opening || progress.tp_rank < 0 ||
      progress.tp_rank >= std::ssize(members_))
    return;
  members_[static_cast<size_t>(progress.tp_rank)].progress = progress.progress;
  report_progress();
}

/// The slowest rank tells how far the group is.
void supervisor_core::report_progress() {
  const auto slowest = std::min_element(
      members_.begin(), members_.end(), [](const member& a, const member& b) {
        return a.progress.percent < b.progress.percent;
      });
  tell(engine_phase::loading, {}, slowest->progress);
}

// -- losing -------------------------------------------------------------------------------------------------

void supervisor_core::lose(const group_lost& lost) {
  if (lost.epoch != epoch_ || (stage_ != stage::opening && stage_ != stage::serving)) return;
  spdlog::error("group of epoch {} lost: {}", epoch_, lost.reason);
  ++recovery_.groups_lost;
  if (!recovery_began_) recovery_began_ = self_->clock().now();
  self_->send(options_.scheduler, lost);
  if (give_up_after(lost)) return;
  if (too_many_losses())
    return fail(fmt::format("{} groups lost within {} s, the last: {}", losses_.size(),
                            std::chrono::duration_cast<std::chrono::seconds>(options_.loss_window).count(),
                            lost.reason));
  stage_ = stage::departing;
  last_loss_ = lost;
  tell(engine_phase::loading, {}, restarting());
  memory_->abort();  // everybody leaves his waits at once
  ++epoch_;
  keep_members(lost);
  for (int32_t rank = 0; rank < std::ssize(members_); ++rank)
    at(rank).stays ? hand_memory_to(rank) : let_go(rank);
  go_on_if_settled();
}

bool supervisor_core::give_up_after(const group_lost& lost) {
  if (!lost.device_lost || options_.isolated) return false;
  fail(fmt::format("{}; only the end of this process heals that (with parallel.isolation = \"process\" it "
                   "would have been a shard's)",
                   lost.reason));
  return true;
}

bool supervisor_core::too_many_losses() {
  const auto now = self_->clock().now();
  losses_.push_back(now);
  while (losses_.front() < now - options_.loss_window) losses_.pop_front();
  return std::ssize(losses_) >= options_.max_losses;
}

bool supervisor_core::may_stay(int32_t rank, const group_lost& lost) const {
  const auto& asked = members_[static_cast<size_t>(rank)];
  if (!asked.complete() || asked.launcher_gone || asked.shard_gone || asked.tower_gone) return false;
  switch (lost.cause) {
    case loss_cause::rank: return rank != lost.rank;
    case loss_cause::late: return losses_.size() == 1;  // who is late again may be so for a graph's sake
    case loss_cause::unknown: return false;
  }
  return false;
}

/// Decides who stays, and makes the memory that they are to join: while they map the old one, too.
void supervisor_core::keep_members(const group_lost& lost) {
  for (int32_t rank = 0; rank < std::ssize(members_); ++rank) at(rank).stays = may_stay(rank, lost);
  if (!somebody_stays()) return;
  try {
    transport::symmetric_memory next(options_.shard.tp_size, options_.lanes, options_.symmetric);
    aborted_.push_back(std::exchange(*memory_, std::move(next)));
  } catch (const std::exception& failure) {
    spdlog::warn("all ranks are started anew: symmetric memory beside the old: {}", failure.what());
    for (auto& leaving : members_) leaving.stays = false;
  }
  for (auto& asked : members_)
    if (asked.stays) asked.opened = false;
}

void supervisor_core::dismiss(int32_t rank) {
  auto& leaving = at(rank);
  leaving.stays = false;
  if (leaving.launcher) self_->send_exit(leaving.launcher, caf::exit_reason::kill);
  if (leaving.shard) self_->send_exit(leaving.shard, caf::exit_reason::kill);
  if (leaving.tower) self_->send_exit(leaving.tower, caf::exit_reason::kill);
}

/// Another will take its place.
void supervisor_core::let_go(int32_t rank) {
  dismiss(rank);
  wait_for_departures();
  if (rank != tower_rank) return;
  auto lost = last_loss_;
  lost.epoch = tower_epoch_;
  self_->send(options_.encoder, std::move(lost));
}

/// `departure_is_over` follows, when they went or when it takes too long.
void supervisor_core::wait_for_departures() {
  departure_began_ = self_->clock().now();
  self_->delayed_send(self_, options_.departure_timeout, caf::tick_atom::value);
}

void supervisor_core::somebody_died(const caf::down_msg& down) {
  const auto dead = [&](const auto& handle) { return handle && handle.address() == down.source; };
  for (int32_t rank = 0; rank < std::ssize(members_); ++rank) {
    auto& fallen = at(rank);
    fallen.launcher_gone |= dead(fallen.launcher);
    fallen.shard_gone |= dead(fallen.shard);
    fallen.tower_gone |= dead(fallen.tower);
    if (!dead(fallen.launcher) && !dead(fallen.shard) && !dead(fallen.tower)) continue;
    if (stage_ == stage::departing && fallen.stays) let_go(rank);
    lose({epoch_,
          fmt::format("{} {} ended: {}", dead(fallen.tower) ? "the vision tower of rank" : "rank", rank,
                      describe(down.reason)),
          false, loss_cause::rank, rank});
    return go_on_if_settled();
  }
  if (down.source == options_.scheduler.address()) return fail("the scheduler ended");
  for (const auto& [name, actor] : options_.watched)
    if (actor.address() == down.source) return fail(fmt::format("the {} ended", name));
}

void supervisor_core::go_on_if_settled() {
  if (std::all_of(members_.begin(), members_.end(), [](const member& m) { return m.settled(); }))
    departure_is_over();
}

void supervisor_core::tick() {
  const bool departing = stage_ == stage::departing || stage_ == stage::stopping;
  const auto passed = self_->clock().now() - departure_began_;
  if (!departing || passed < options_.departure_timeout) return;  // of an earlier departure
  const auto& last = at(tower_rank);
  const bool tower_leaves = last.tower && !last.tower_gone && !last.stays;
  if (stage_ == stage::departing && tower_leaves && passed >= options_.tower_timeout)
    return fail("the vision tower of a lost group does not end, and could still write visual rows");
  const bool somebody_joins = std::any_of(members_.begin(), members_.end(), [](const member& m) {
    return m.stays && !m.opened;
  });
  if (stage_ == stage::stopping || (!tower_leaves && !somebody_joins)) return leave_behind();
  self_->delayed_send(self_, options_.departure_timeout, caf::tick_atom::value);
}

void supervisor_core::leave_behind() {
  spdlog::warn("a member of the group before epoch {} does not end: it is left behind", epoch_);
  departure_is_over();
}

void supervisor_core::departure_is_over() {
  if (stage_ == stage::stopping) return self_->quit(stop_reason_);
  if (stage_ == stage::departing) open_group();
}

void supervisor_core::fail(std::string why) {
  if (stage_ == stage::failed || stage_ == stage::stopping) return;
  spdlog::error("the engine failed: {}", why);
  dismiss_all();
  stage_ = stage::failed;
  self_->send(options_.encoder, groups_ended{why});
  tell(engine_phase::failed, std::move(why), {});
}

void supervisor_core::stop(const caf::error& reason) {
  if (stage_ == stage::stopping) return;
  stage_ = stage::stopping;
  stop_reason_ = reason;
  dismiss_all();
  wait_for_departures();
  go_on_if_settled();
}

void supervisor_core::dismiss_all() {
  if (memory_) memory_->abort();
  for (int32_t rank = 0; rank < std::ssize(members_); ++rank) dismiss(rank);
}

supervisor_actor::behavior_type supervisor(
    supervisor_actor::stateful_pointer<supervisor_state> self, supervisor_options options) {
  self->state.core = std::make_unique<supervisor_core>(self, std::move(options));
  auto* core = self->state.core.get();
  self->set_down_handler([core](const caf::down_msg& down) { core->somebody_died(down); });
  self->set_exit_handler([core](const caf::exit_msg& exit) { core->stop(exit.reason); });
  core->start();
  return {
      [core](const group_lost& lost) { core->lose(lost); },
      [core](const shard_progress& progress) { core->take_progress(progress); },
      [core](caf::tick_atom) { core->tick(); },
  };
}

}  // namespace troupe::actors
