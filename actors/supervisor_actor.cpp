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
// The vision tower lives with the shard of this rank.
constexpr int32_t tower_rank = 0;

}  // namespace

supervisor_core::supervisor_core(self_pointer self, supervisor_options options)
    : self_(self), options_(std::move(options)) {}

void supervisor_core::start() {
  self_->monitor(options_.scheduler);
  for (const auto& [name, actor] : options_.watched) self_->monitor(actor);
  open_group();
}

// -- opening ------------------------------------------------------------------------------------------------

void supervisor_core::open_group() {
  ++epoch_;
  stage_ = stage::opening;
  const auto num_ranks = options_.shard.tp_size;
  members_.assign(static_cast<size_t>(num_ranks), member{});
  try {
    memory_.emplace(num_ranks, options_.lanes, options_.symmetric);
  } catch (const std::exception& failure) {
    return fail(fmt::format("symmetric memory: {}", failure.what()));
  }
  for (int32_t rank = 0; rank < num_ranks; ++rank) launch(rank);
}

void supervisor_core::launch(int32_t rank) {
  auto& joining = members_[static_cast<size_t>(rank)];
  joining.launcher = options_.make_launcher(self_->system());
  joining.progress = {epoch_ == 1 ? phase_starting : phase_restarting, 0, 0, 0, false};
  self_->monitor(joining.launcher);
  self_->request(joining.launcher, options_.launch_timeout,
                 launch_shard{rank == tower_rank, memory_->file_descriptors(),
                              options_.visual_pool_descriptor, options_.staging_descriptor})
      .then(
          [this, rank, epoch = epoch_](const shard_launched& launched) {
            if (epoch == epoch_ && stage_ == stage::opening) open(rank, launched);
          },
          [this, rank, epoch = epoch_](const caf::error& failure) {
            take_failure(rank, epoch, "start", failure);
          });
}

void supervisor_core::open(int32_t rank, const shard_launched& launched) {
  auto& joining = members_[static_cast<size_t>(rank)];
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
  self_->request(launched.shard, options_.open_timeout, open_shard{std::move(options)})
      .then(
          [this, rank, epoch = epoch_](const shard_opened& opened) {
            if (epoch == epoch_ && stage_ == stage::opening) take_opened(rank, opened);
          },
          [this, rank, epoch = epoch_](const caf::error& failure) {
            take_failure(rank, epoch, "open", failure);
          });
}

void supervisor_core::open_tower_of(int32_t rank, const shard_launched& launched) {
  auto options = options_.tower;
  options.visual_pool_descriptor = launched.visual_pool_descriptor;
  options.staging_descriptor = launched.staging_descriptor;
  self_->request(launched.tower, options_.open_timeout, open_vision_tower{std::move(options)})
      .then(
          [this, rank, epoch = epoch_](const vision_tower_opened&) {
            if (epoch != epoch_ || stage_ != stage::opening) return;
            members_[static_cast<size_t>(rank)].tower_opened = true;
            announce_if_complete();
          },
          [this, rank, epoch = epoch_](const caf::error& failure) {
            take_failure(rank, epoch, "open its vision tower", failure);
          });
}

void supervisor_core::take_opened(int32_t rank, const shard_opened& opened) {
  auto& joined = members_[static_cast<size_t>(rank)];
  joined.opened = true;
  joined.graphs = opened.graphs;
  announce_if_complete();
}

void supervisor_core::take_failure(int32_t rank, uint64_t epoch, const char* what,
                                   const caf::error& failure) {
  if (epoch != epoch_ || stage_ != stage::opening) return;
  const auto why = fmt::format("rank {} did not {}: {}", rank, what, describe(failure));
  // A checkpoint or setting does not get better by trying again.
  if (is(failure, engine_error::bad_configuration)) return fail(why);
  lose({epoch, why, is(failure, engine_error::device_lost)});
}

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
  const auto watcher = caf::actor_cast<group_watcher>(self_);
  group_ready ready{epoch_, {}, watcher};
  for (const auto& joined : members_) ready.shards.push_back(joined.shard);
  spdlog::info("group of {} shards ready, epoch {}", members_.size(), epoch_);
  self_->send(options_.encoder, tower_ready{epoch_, members_[tower_rank].tower, watcher});
  self_->send(options_.scheduler, std::move(ready));
  self_->send(options_.gateway, phase_changed{engine_phase::ready, {}, {}});
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
  self_->send(options_.gateway, phase_changed{engine_phase::loading, {}, slowest->progress});
}

// -- losing -------------------------------------------------------------------------------------------------

void supervisor_core::lose(const group_lost& lost) {
  if (lost.epoch != epoch_ || (stage_ != stage::opening && stage_ != stage::serving)) return;
  spdlog::error("group of epoch {} lost: {}", epoch_, lost.reason);
  self_->send(options_.scheduler, lost);
  self_->send(options_.encoder, lost);
  if (lost.device_lost && !options_.isolated)
    return fail(fmt::format("{}; only the end of this process heals that (with parallel.isolation = "
                            "\"process\" it would have been a shard's)",
                            lost.reason));
  if (too_many_losses())
    return fail(fmt::format("{} groups lost within {} s, the last: {}", losses_.size(),
                            std::chrono::duration_cast<std::chrono::seconds>(options_.loss_window).count(),
                            lost.reason));
  stage_ = stage::departing;
  self_->send(options_.gateway, phase_changed{engine_phase::loading, {}, {phase_restarting, 0, 0, 0, false}});
  depart();
}

/// Members are told to go; `departure_is_over` follows, when they went or when it takes too long.
void supervisor_core::depart() {
  dismiss_members();
  departure_began_ = self_->clock().now();
  self_->delayed_send(self_, options_.departure_timeout, caf::tick_atom::value);
  leave_if_all_gone();
}

bool supervisor_core::too_many_losses() {
  const auto now = self_->clock().now();
  losses_.push_back(now);
  while (losses_.front() < now - options_.loss_window) losses_.pop_front();
  return std::ssize(losses_) >= options_.max_losses;
}

void supervisor_core::dismiss_members() {
  if (memory_) memory_->abort();  // peers of a dead rank leave their waits at once
  for (const auto& leaving : members_) {
    if (leaving.launcher) self_->send_exit(leaving.launcher, caf::exit_reason::kill);
    if (leaving.shard) self_->send_exit(leaving.shard, caf::exit_reason::kill);
    if (leaving.tower) self_->send_exit(leaving.tower, caf::exit_reason::kill);
  }
}

void supervisor_core::somebody_died(const caf::down_msg& down) {
  const auto dead = [&](const auto& handle) { return handle && handle.address() == down.source; };
  for (size_t rank = 0; rank < members_.size(); ++rank) {
    auto& fallen = members_[rank];
    fallen.launcher_gone |= dead(fallen.launcher);
    fallen.shard_gone |= dead(fallen.shard);
    fallen.tower_gone |= dead(fallen.tower);
    if (!dead(fallen.launcher) && !dead(fallen.shard) && !dead(fallen.tower)) continue;
    group_lost lost{epoch_, fmt::format("{} {} ended: {}",
                                        dead(fallen.tower) ? "the vision tower of rank" : "rank", rank,
                                        describe(down.reason))};
    lost.tower_blameless = rank != tower_rank;
    lose(lost);
    return leave_if_all_gone();
  }
  if (down.source == options_.scheduler.address()) return fail("the scheduler ended");
  for (const auto& [name, actor] : options_.watched)
    if (actor.address() == down.source) return fail(fmt::format("the {} ended", name));
}

void supervisor_core::leave_if_all_gone() {
  if (std::all_of(members_.begin(), members_.end(), [](const member& m) { return m.gone(); }))
    departure_is_over();
}

void supervisor_core::tick() {
  const bool departing = stage_ == stage::departing || stage_ == stage::stopping;
  const auto passed = self_->clock().now() - departure_began_;
  if (!departing || passed < options_.departure_timeout) return;  // of an earlier departure
  const auto& last = members_[tower_rank];
  const bool tower_stays = last.tower && !last.tower_gone;
  if (stage_ == stage::stopping || !tower_stays) return leave_behind();
  if (passed >= options_.tower_timeout)
    return fail("the vision tower of a lost group does not end, and could still write visual rows");
  self_->delayed_send(self_, options_.departure_timeout, caf::tick_atom::value);
}

void supervisor_core::leave_behind() {
  spdlog::warn("a member of the group of epoch {} does not end: it is left behind", epoch_);
  departure_is_over();
}

void supervisor_core::departure_is_over() {
  if (stage_ == stage::stopping) return self_->quit(stop_reason_);
  if (stage_ == stage::departing) open_group();
}

void supervisor_core::fail(std::string why) {
  if (stage_ == stage::failed || stage_ == stage::stopping) return;
  spdlog::error("the engine failed: {}", why);
  dismiss_members();
  stage_ = stage::failed;
  self_->send(options_.encoder, groups_ended{why});
  self_->send(options_.gateway, phase_changed{engine_phase::failed, std::move(why), {}});
}

void supervisor_core::stop(const caf::error& reason) {
  if (stage_ == stage::stopping) return;
  stage_ = stage::stopping;
  stop_reason_ = reason;
  depart();
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
