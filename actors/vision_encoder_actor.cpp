#include "actors/vision_encoder_actor.hpp"

#include "actors/errors.hpp"
#include "config/ensure.hpp"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <source_location>
#include <utility>

namespace troupe::actors {
namespace {

using blame = vision_slots::blame;

int64_t bytes_of(const model::patch_rows& rows) {
  return static_cast<int64_t>(rows.pixels.size());
}

/// Whether a tower that answered so will answer no more: it says so itself, or CAF says it of it.
bool means_loss(const caf::error& failure) {
  return is(failure, engine_error::device_lost) || failure.category() != engine_error_category;
}

}  // namespace

void patch_cache::insert(const plan::media_digest& digest, patches rows) {
  const auto bytes = bytes_of(*rows);
  if (bytes > max_bytes_ || entries_.contains(digest)) return;
  while (bytes_ + bytes > max_bytes_) take(plan::media_digest(order_.front().digest));
  bytes_ += bytes;
  entries_.emplace(digest, order_.insert(order_.end(), {digest, std::move(rows)}));
}

patch_cache::patches patch_cache::take(const plan::media_digest& digest) {
  const auto found = entries_.find(digest);
  if (found == entries_.end()) return nullptr;
  auto rows = std::move(found->second->rows);
  bytes_ -= bytes_of(*rows);
  order_.erase(found->second);
  entries_.erase(found);
  return rows;
}

std::vector<visual_rows::visual_item> items_of(const plan::prompt& prompt) {
  std::map<int32_t, visual_rows::visual_item> items;  // by place in the request
  for (const auto& span : prompt.spans) {
    auto& item = items[span.media_index];
    item.digest = span.digest;
    item.num_rows = std::max(item.num_rows, span.first_row + span.num_tokens);
  }
  std::vector<visual_rows::visual_item> list;
  for (const auto& [index, item] : items) list.push_back(item);
  return list;
}

vision_encoder_core::vision_encoder_core(self_pointer self, vision_encoder_options options)
    : self_(self),
      options_(std::move(options)),
      rows_(options_.pool_rows),
      pixels_(options_.max_cached_pixel_bytes),
      free_workers_(options_.workers),
      slots_(options_.staging, options_.max_segments) {}

// -- digests ------------------------------------------------------------------------------------------------

caf::result<media_prepared> vision_encoder_core::prepare(const prepare_media& message) {
  const auto id = message.request->id;
  const auto count = message.request->media.size();
  if (count == 0) return media_prepared{};
  auto promise = self_->make_response_promise<media_prepared>();
  preparations_.insert_or_assign(
      id, preparation{std::vector<plan::media_digest>(count), count, promise});
  for (size_t i = 0; i < count; ++i)
    jobs_.push_back({message.request, static_cast<int32_t>(i), false, {}});
  give_work();
  return promise;
}

void vision_encoder_core::give_work() {
  while (!free_workers_.empty() && !jobs_.empty()) {
    auto job = std::move(jobs_.front());
    jobs_.pop_front();
    start(std::move(job));
  }
}

void vision_encoder_core::start(pixel_job job) {
  const auto worker = free_workers_.back();
  free_workers_.pop_back();
  process_media work{job.request, job.media_index, !job.for_claim};
  self_->request(worker, options_.work_timeout, std::move(work))
      .then(
          [this, job, worker](const media_processed& processed) {
            free_workers_.push_back(worker);
            finish_job(job, processed);
            give_work();
          },
          [this, job, worker](const caf::error& failure) {
            free_workers_.push_back(worker);
            fail_job(job, failure);
            give_work();
          });
}

void vision_encoder_core::finish_job(const pixel_job& job, const media_processed& processed) {
  if (job.for_claim)
    take_claimed_pixels(job, processed);
  else
    take_digest(job, processed);
}

void vision_encoder_core::fail_job(const pixel_job& job, const caf::error& failure) {
  spdlog::error("picture {} of request {} could not be processed: {}", job.media_index,
                job.request->id, describe(failure));
  if (job.for_claim) return fail_claim(job.digest, describe(failure));
  const auto found = preparations_.find(job.request->id);
  if (found == preparations_.end()) return;
  found->second.promise.deliver(failure);
  preparations_.erase(found);
}

void vision_encoder_core::take_digest(const pixel_job& job, const media_processed& processed) {
  const auto found = preparations_.find(job.request->id);
  if (processed.patches != nullptr) pixels_.insert(processed.digest, processed.patches);
  if (found == preparations_.end()) return;  // released meanwhile, or refused for another picture
  auto& [digests, missing, promise] = found->second;
  digests[static_cast<size_t>(job.media_index)] = processed.digest;
  if (!processed.refused && --missing > 0) return;
  promise.deliver(media_prepared{std::move(digests), processed.refused});
  preparations_.erase(found);
}

// -- rows ---------------------------------------------------------------------------------------------------

caf::result<rows_acquired> vision_encoder_core::acquire(const acquire_rows& message) {
  if (!towers_ended_.empty()) return make_error(engine_error::media_failed, towers_ended_);
  if (auto why = rows_.enqueue(message.id, items_of(*message.prompt)); !why.empty())
    return make_error(engine_error::media_failed, std::move(why));
  auto promise = self_->make_response_promise<rows_acquired>();
  acquisitions_.insert_or_assign(message.id, acquisition{message.request, message.prompt, promise});
  serve_waiting();
  return promise;
}

void vision_encoder_core::release(request_id id) {
  if (const auto found = preparations_.find(id); found != preparations_.end()) {
    found->second.promise.deliver(make_error(engine_error::media_failed, "released"));
    preparations_.erase(found);
  }
  std::erase_if(jobs_, [id](const pixel_job& job) { return !job.for_claim && job.request->id == id; });
  if (const auto found = acquisitions_.find(id); found != acquisitions_.end()) {
    found->second.promise.deliver(make_error(engine_error::media_failed, "released"));
    acquisitions_.erase(found);
  }
  rows_.release(id);
  serve_waiting();
}

void vision_encoder_core::serve_waiting() {
  for (auto& claim : rows_.serve()) {
    auto job = job_for(claim.digest);
    if (auto patches = pixels_.take(claim.digest)) {
      slots_.enqueue({claim.digest, std::move(patches), std::move(claim.rows)});
    } else {
      claims_.emplace(claim.digest, std::move(claim.rows));
      // Rows are claimed and others may wait for them: before the digests of requests to come.
      jobs_.push_front(std::move(job));
    }
  }
  answer_ready();
  give_work();
  feed_tower();
}

/// The picture behind a digest, from the oldest request that waits for it.
vision_encoder_core::pixel_job vision_encoder_core::job_for(const plan::media_digest& digest) const {
  for (const auto& [id, waiting] : acquisitions_)
    for (const auto& span : waiting.prompt->spans)
      if (span.digest == digest) return {waiting.request, span.media_index, true, digest};
  config::broken_invariant("visual rows were claimed for a picture that no request waits for",
                           std::source_location::current());
}

void vision_encoder_core::take_claimed_pixels(const pixel_job& job, const media_processed& processed) {
  const auto found = claims_.find(job.digest);
  if (found == claims_.end()) return;
  if (processed.refused) return fail_claim(job.digest, processed.refused->message);
  if (processed.digest != job.digest)
    return fail_claim(job.digest, "a picture has other pixels than when it was first decoded");
  slots_.enqueue({job.digest, processed.patches, std::move(found->second)});
  claims_.erase(found);
  feed_tower();
}

void vision_encoder_core::fail_claim(const plan::media_digest& digest, const std::string& why) {
  claims_.erase(digest);
  for (const auto id : rows_.failed(digest)) {
    const auto found = acquisitions_.find(id);
    if (found == acquisitions_.end()) continue;
    found->second.promise.deliver(make_error(engine_error::media_failed, why));
    acquisitions_.erase(found);
  }
  serve_waiting();
}

// -- tower --------------------------------------------------------------------------------------------------

void vision_encoder_core::feed_tower() {
  slots_.fill();
  while (tower_) {
    auto run = slots_.hand_over();
    if (!run) return;
    const auto slot = run->slot;
    // A run waits for the one before it: each of them has its own time.
    const auto timeout = options_.work_timeout * model::vision_staging::num_slots;
    self_->request(tower_->tower, timeout, *std::move(run))
        .then([this, slot, tower = num_towers_](
                  const media_encoded& encoded) { take_encoded(tower, slot, encoded); },
              [this, slot, tower = num_towers_](const caf::error& failure) {
                take_tower_failure(tower, slot, failure);
              });
  }
}

void vision_encoder_core::take_encoded(uint64_t tower, int32_t slot, const media_encoded& encoded) {
  if (!tower_ || tower != num_towers_) return;  // of a tower that was lost meanwhile
  graph_captures_after_start_ = encoded.graph_captures_after_start;
  arena_allocations_after_start_ = encoded.arena_allocations_after_start;
  pacing_ = encoded.pacing;
  for (const auto& digest : slots_.finish(slot)) rows_.filled(digest);
  serve_waiting();  // rows that nobody waits for any more can be given to the next
}

void vision_encoder_core::take_tower_failure(uint64_t tower, int32_t slot, const caf::error& failure) {
  if (!tower_ || tower != num_towers_) return;
  const auto why = describe(failure);
  spdlog::error("the vision tower failed: {}", why);
  if (means_loss(failure)) {
    const group_lost lost{tower_->epoch, "vision tower: " + why, is(failure, engine_error::device_lost),
                          loss_cause::rank, tower_rank};
    self_->send(tower_->watcher, lost);
    return lose_tower(lost);
  }
  for (const auto& digest : slots_.fail(slot)) fail_claim(digest, why);
  feed_tower();
}

/// A tower that outlived its group goes on with what it has.
void vision_encoder_core::use_tower(const tower_ready& ready) {
  if (!tower_ || tower_->tower != ready.tower) ++num_towers_;
  tower_ = ready;
  feed_tower();
}

void vision_encoder_core::lose_tower(const group_lost& lost) {
  if (!tower_ || tower_->epoch != lost.epoch) return;
  tower_.reset();
  const bool elsewhere = lost.cause == loss_cause::rank && lost.rank != tower_rank;
  for (const auto& digest : slots_.take_back(elsewhere ? blame::nobody : blame::at_tower))
    fail_claim(digest, fmt::format("{} vision towers were lost while they encoded the picture, the last: {}",
                                   vision_slots::max_losses, lost.reason));
}

/// Whoever waits hears it; rows that are filled stay with those who hold them.
void vision_encoder_core::end_towers(const groups_ended& ended) {
  towers_ended_ = ended.reason;
  tower_.reset();
  for (auto& [id, waiting] : std::exchange(acquisitions_, {})) {
    waiting.promise.deliver(make_error(engine_error::media_failed, ended.reason));
    rows_.release(id);
  }
  for (const auto& digest : slots_.clear()) rows_.failed(digest);
  for (const auto& [digest, rows] : std::exchange(claims_, {})) rows_.failed(digest);
  std::erase_if(jobs_, [](const pixel_job& job) { return job.for_claim; });
}

void vision_encoder_core::answer_ready() {
  for (const auto id : rows_.take_ready()) {
    const auto found = acquisitions_.find(id);
    if (found == acquisitions_.end()) continue;
    found->second.promise.deliver(rows_of(id, *found->second.prompt));
    acquisitions_.erase(found);
  }
}

rows_acquired vision_encoder_core::rows_of(request_id id, const plan::prompt& prompt) const {
  rows_acquired acquired;
  for (const auto& span : prompt.spans) {
    const auto* rows = rows_.rows_of(id, span.digest);
    config::ensure(rows != nullptr && span.first_row + span.num_tokens <= std::ssize(*rows),
                   "request {} holds too few rows for its visual span at token {}", id,
                   span.first_token);
    const auto first = rows->begin() + span.first_row;
    acquired.pool_rows.insert(acquired.pool_rows.end(), first, first + span.num_tokens);
  }
  return acquired;
}

vision_statistics vision_encoder_core::statistics() const {
  const auto totals = rows_.totals();
  return {totals.total,
          totals.held,
          totals.items_claimed,
          totals.items_shared,
          graph_captures_after_start_,
          arena_allocations_after_start_,
          pacing_};
}

vision_encoder_actor::behavior_type vision_encoder(
    vision_encoder_actor::stateful_pointer<vision_encoder_state> self,
    vision_encoder_options options) {
  self->state.core = std::make_unique<vision_encoder_core>(self, std::move(options));
  auto* core = self->state.core.get();
  return {
      [core](const prepare_media& message) { return core->prepare(message); },
      [core](const acquire_rows& message) { return core->acquire(message); },
      [core](const release_rows& message) { core->release(message.id); },
      [core](const tower_ready& ready) { core->use_tower(ready); },
      [core](const group_lost& lost) { core->lose_tower(lost); },
      [core](const groups_ended& ended) { core->end_towers(ended); },
      [core](get_vision_statistics) { return core->statistics(); },
  };
}

}  // namespace troupe::actors
