#include "actors/scheduler_actor.hpp"

#include "actors/errors.hpp"

#include <caf/actor_clock.hpp>
#include <caf/sec.hpp>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

namespace troupe::actors {
namespace {

// How often deadlines are looked at. A request may outlive its deadline by this much.
constexpr std::chrono::milliseconds tick_interval{50};
// The encoder answers or the planner's own deadline ends the request first; this only bounds the wait.
constexpr std::chrono::milliseconds media_timeout_margin{1'000};

/// Why `result` is not what rank `rank` should have reported; empty if it is.
std::string disagreement(const plan::step_plan& plan, int32_t rank, const plan::step_result& result,
                         const std::optional<plan::step_result>& first) {
  if (result.content != plan.content)
    return fmt::format("rank {} ran step {} with digest {:016x}{:016x}, the plan has {:016x}{:016x}",
                       rank, plan.step, result.content.high, result.content.low, plan.content.high,
                       plan.content.low);
  if (result.tokens.size() != plan.logit_rows.size())
    return fmt::format("rank {} sampled {} tokens in step {}, expected {}", rank,
                       result.tokens.size(), plan.step, plan.logit_rows.size());
  if (first && result.tokens != first->tokens)
    return fmt::format("rank {} sampled other tokens than its peers in step {}", rank, plan.step);
  return {};
}

/// Who lost a group whose rank answered a step with `failure`.
loss_cause cause_of(const caf::error& failure) {
  if (is(failure, engine_error::peer_lost) || failure == caf::sec::request_timeout)
    return loss_cause::late;
  // A plan that one rank alone should refuse was never made.
  return is(failure, engine_error::plan_refused) ? loss_cause::unknown : loss_cause::rank;
}

}  // namespace

scheduler_core::scheduler_core(self_pointer self, scheduler_options options)
    : self_(self),
      options_(std::move(options)),
      planner_(options_.limits),
      verification_(options_.verify_every) {}

scheduling::time_point scheduler_core::now() const { return self_->clock().now(); }

scheduling::admission_result scheduler_core::submit(const schedule_request& message) {
  const auto id = message.request->id;
  auto decision =
      planner_.submit({id, *message.prompt, message.sampling, message.deadline}, now());
  if (decision.rejected) return decision;
  requests_.emplace(id, admitted{message.request, message.prompt, message.deadline, 0});
  self_->send(options_.detokenizer,
              open_stream{message.request, caf::actor_cast<request_canceller>(self_)});
  advance();
  keep_ticking();
  return decision;
}

void scheduler_core::cancel(request_id id) {
  planner_.cancel(id);
  advance();
}

void scheduler_core::pause(request_id id) {
  planner_.pause(id);
  advance();
}

void scheduler_core::resume(request_id id) {
  planner_.resume(id);
  advance();
}

void scheduler_core::tick() {
  ticking_ = false;
  planner_.expire(now());
  advance();
  keep_ticking();
}

void scheduler_core::keep_ticking() {
  if (ticking_ || requests_.empty()) return;
  ticking_ = true;
  self_->delayed_send(self_, tick_interval, caf::tick_atom::value);
}

// -- steps --------------------------------------------------------------------------------------------------

void scheduler_core::advance() {
  // Plan first, tell afterwards: shards must not wait for clients.
  while (group_ && !distrusted_) {
    auto plan = planner_.plan_step();
    if (!plan) break;
    dispatch(*std::move(plan));
  }
  recheck_in_pause();
  deliver_events();
}

void scheduler_core::dispatch(plan::step_plan plan) {
  const auto shared = std::make_shared<const plan::step_plan>(std::move(plan));
  const auto order = order_for(*shared);
  last_replayed_ = order == step_order::replay ? shared : nullptr;
  send(shared, order);
}

step_order scheduler_core::order_for(const plan::step_plan& plan) {
  if (quarantined_.contains(plan.bucket_tokens)) return step_order::eager;
  return verification_.verifies_next() ? step_order::verified : step_order::replay;
}

/// A step that read visual rows may not be repeated once it is complete: its rows may hold another picture.
void scheduler_core::recheck_in_pause() {
  if (!group_ || !steps_.empty() || !last_replayed_ || !verification_.wants_pause()) return;
  const auto last = std::exchange(last_replayed_, nullptr);
  if (std::ranges::any_of(last->row_map, [](int32_t row) { return row >= 0; })) return;
  verification_.verified_in_pause();
  send(last, step_order::recheck);
}

void scheduler_core::send(std::shared_ptr<const plan::step_plan> shared, step_order order) {
  const auto num_ranks = group_->shards.size();
  steps_.push_back({.plan = shared,
                    .order = order,
                    .reported = std::vector<bool>(num_ranks, false),
                    .missing = num_ranks});
  // A step waits for those before it: each of them has its own time.
  const auto timeout = options_.step_timeout * static_cast<int64_t>(steps_.size());
  for (size_t i = 0; i < num_ranks; ++i) {
    const auto rank = static_cast<int32_t>(i);
    self_->request(group_->shards[i], timeout, run_step{shared, order})
        .then([this, rank, epoch = shared->epoch](
                  const step_completed& completed) { take_result(rank, epoch, completed); },
              [this, rank, epoch = shared->epoch, step = shared->step](const caf::error& failure) {
                take_failure(rank, epoch, step, failure);
              });
  }
}

void scheduler_core::take_result(int32_t rank, uint64_t epoch, const step_completed& completed) {
  if (!group_ || group_->epoch != epoch) return;  // of a group that was lost meanwhile
  const auto& result = completed.result;
  const auto step = std::find_if(steps_.begin(), steps_.end(), [&](const step_in_flight& flight) {
    return flight.plan->step == result.step && flight.plan->epoch == result.epoch &&
           !flight.reported[static_cast<size_t>(rank)];
  });
  if (step == steps_.end())
    return lose(fmt::format("rank {} reports step {} of epoch {}, which it was not given", rank,
                            result.step, result.epoch));
  if (auto why = disagreement(*step->plan, rank, result, step->result); !why.empty())
    return lose(std::move(why));
  step->reported[static_cast<size_t>(rank)] = true;
  --step->missing;
  if (!step->result) step->result = result;
  if (step->difference.empty() && !completed.difference.empty())
    step->difference = fmt::format("rank {}: {}", rank, completed.difference);
  graph_captures_after_start_ =
      std::max(graph_captures_after_start_, completed.graph_captures_after_start);
  arena_allocations_after_start_ =
      std::max(arena_allocations_after_start_, completed.arena_allocations_after_start);
  finish_steps();
}

void scheduler_core::finish_steps() {
  bool finished = false;
  while (!steps_.empty() && steps_.front().missing == 0) {
    finish(steps_.front());
    steps_.pop_front();
    finished = true;
  }
  if (distrusted_ && steps_.empty()) {
    distrusted_ = false;
    planner_.recompute();
  }
  if (finished) advance();
}

void scheduler_core::finish(const step_in_flight& done) {
  // Of steps that ran behind a wrong one nothing counts.
  if (!distrusted_ && done.order != step_order::recheck) planner_.complete(*done.result);
  if (done.order == step_order::verified || done.order == step_order::recheck) ++steps_verified_;
  if (!done.difference.empty()) quarantine(done);
}

void scheduler_core::quarantine(const step_in_flight& wrong) {
  ++mismatches_;
  distrusted_ = true;
  if (!quarantined_.insert(wrong.plan->bucket_tokens).second) return;
  spdlog::error(
      "step {} of epoch {}: the graph of {} tokens gives another result than its kernels without a graph "
      "({}); it is quarantined, and running requests are recomputed",
      wrong.plan->step, wrong.plan->epoch, wrong.plan->bucket_tokens, wrong.difference);
}

void scheduler_core::forget_steps() {
  steps_.clear();
  last_replayed_.reset();
  distrusted_ = false;
}

void scheduler_core::take_failure(int32_t rank, uint64_t epoch, uint64_t step,
                                  const caf::error& failure) {
  if (!group_ || group_->epoch != epoch) return;
  lose(fmt::format("rank {} did not complete step {}: {}", rank, step, describe(failure)),
       is(failure, engine_error::device_lost), cause_of(failure), rank);
}

// -- groups -------------------------------------------------------------------------------------------------

void scheduler_core::use_group(const group_ready& group) {
  if (group.epoch < epoch_ || (group_ && group.epoch == epoch_)) return;
  group_ = group;
  epoch_ = group.epoch;
  forget_steps();
  if (!group.graphs_kept) quarantined_.clear();
  planner_.reset(epoch_);
  advance();
}

void scheduler_core::lose_group(const group_lost& lost) {
  if (!group_ || group_->epoch != lost.epoch) return;
  // Tokens that never reached the planner are computed again, the same ones. Starting over at once lets
  // cancellations and deadlines take effect while there is no group.
  group_.reset();
  forget_steps();
  planner_.reset(++epoch_);
  advance();
}

void scheduler_core::lose(std::string reason, bool device_lost, loss_cause cause, int32_t rank) {
  const auto watcher = group_->watcher;
  const group_lost lost{group_->epoch, std::move(reason), device_lost, cause, rank};
  lose_group(lost);
  self_->send(watcher, lost);
}

// -- events -------------------------------------------------------------------------------------------------

void scheduler_core::deliver_events() {
  generation_progress progress;
  for (auto& event : planner_.take_events()) {
    if (const auto* want = std::get_if<scheduling::want_media>(&event)) {
      acquire_media(want->id);
    } else if (const auto* release = std::get_if<scheduling::release_media>(&event)) {
      release_media(release->id);
    } else if (auto* token = std::get_if<scheduling::token_generated>(&event)) {
      progress.tokens.push_back(std::move(*token));
    } else if (auto* ended = std::get_if<scheduling::request_ended>(&event)) {
      requests_.erase(ended->id);
      progress.ended.push_back(std::move(*ended));
    }
  }
  if (!progress.tokens.empty() || !progress.ended.empty())
    self_->send(options_.detokenizer, std::move(progress));
}

void scheduler_core::acquire_media(request_id id) {
  const auto found = requests_.find(id);
  if (found == requests_.end()) return;
  auto& request = found->second;
  const auto attempt = ++request.media_attempt;
  const auto left = std::max(std::chrono::duration_cast<std::chrono::milliseconds>(
                                 request.deadline - now()),
                             std::chrono::milliseconds{0});
  self_->request(options_.vision_encoder, left + media_timeout_margin,
                 acquire_rows{id, request.request, request.prompt})
      .then([this, id, attempt](const rows_acquired& rows) { take_media(id, attempt, rows); },
            [this, id, attempt](const caf::error& failure) {
              take_media_failure(id, attempt, failure);
            });
}

void scheduler_core::release_media(request_id id) {
  if (const auto found = requests_.find(id); found != requests_.end()) ++found->second.media_attempt;
  self_->send(options_.vision_encoder, release_rows{id});
}

bool scheduler_core::is_current(request_id id, int32_t media_attempt) const {
  const auto found = requests_.find(id);
  return found != requests_.end() && found->second.media_attempt == media_attempt;
}

void scheduler_core::take_media(request_id id, int32_t attempt, const rows_acquired& rows) {
  if (!is_current(id, attempt)) return;  // its rows were given back by release_media
  if (!planner_.media_ready(id, rows.pool_rows)) release_media(id);
  advance();
}

void scheduler_core::take_media_failure(request_id id, int32_t attempt, const caf::error& failure) {
  if (!is_current(id, attempt)) return;
  spdlog::warn("request {}: no visual rows: {}", id, describe(failure));
  planner_.media_failed(id, "a picture of the request could not be encoded");
  advance();
}

scheduler_statistics scheduler_core::statistics() const {
  return {planner_.statistics(),
          {steps_verified_, mismatches_, static_cast<int32_t>(quarantined_.size())},
          graph_captures_after_start_,
          arena_allocations_after_start_};
}

scheduler_actor::behavior_type scheduler(scheduler_actor::stateful_pointer<scheduler_state> self,
                                         scheduler_options options) {
  self->state.core = std::make_unique<scheduler_core>(self, std::move(options));
  auto* core = self->state.core.get();
  return {
      [core](const schedule_request& message) { return core->submit(message); },
      [core](const cancel_request& message) { core->cancel(message.id); },
      [core](const pause_request& message) { core->pause(message.id); },
      [core](const resume_request& message) { core->resume(message.id); },
      [core](const group_ready& group) { core->use_group(group); },
      [core](const group_lost& lost) { core->lose_group(lost); },
      [core](get_scheduler_statistics) { return core->statistics(); },
      [core](caf::tick_atom) { core->tick(); },
  };
}

}  // namespace troupe::actors
