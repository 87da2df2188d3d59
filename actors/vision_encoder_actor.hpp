#pragma once

#include "actors/engine_messages.hpp"
#include "actors/vision_slots.hpp"
#include "actors/visual_rows.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>
#include <caf/typed_response_promise.hpp>

#include <chrono>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::actors {

/// Processed pixels of recent items, so that a picture decoded for its digest need not be decoded again to
/// be encoded. Bounded in bytes; what does not fit is decoded twice.
class patch_cache {
 public:
  using patches = std::shared_ptr<const model::patch_rows>;
  explicit patch_cache(int64_t max_bytes) : max_bytes_(max_bytes) {}

  void insert(const plan::media_digest& digest, patches rows);
  /// Removes and returns them; null if they are not there.
  patches take(const plan::media_digest& digest);
  int64_t bytes() const { return bytes_; }

 private:
  struct entry {
    plan::media_digest digest{};
    patches rows;
  };
  int64_t max_bytes_;
  int64_t bytes_ = 0;
  std::list<entry> order_;  // oldest first
  std::unordered_map<plan::media_digest, std::list<entry>::iterator, media_digest_hash> entries_;
};

struct vision_encoder_options {
  int32_t pool_rows = 0;
  std::shared_ptr<const model::vision_staging> staging;
  int32_t max_segments = 0;  // temporal groups that the tower runs at once
  int64_t max_cached_pixel_bytes = int64_t{256} << 20;
  std::chrono::milliseconds work_timeout{300'000};  // one item on a worker, one hand-over to the tower
  std::vector<media_worker_actor> workers;
};

/// Owner of the visual pool's rows and of the staging memory. Workers make pixels, the tower turns them into
/// rows; this actor decides what is wanted next, and copies pixels to where the tower reads them (so it has a
/// thread of its own: spawned detached):
///
///   prepare_media   item -> worker -> digest (pixels kept while there is room)
///   acquire_rows    wait for room, in order -> claim rows -> pixels -> slot -> tower -> rows are filled ->
///                   answer
///
/// Each worker holds at most one piece of work and the tower one per slot; all else waits here, where it can
/// be dropped. A tower lives and dies with its shard: what one had not encoded when it was lost, the next
/// encodes.
class vision_encoder_core {
 public:
  using self_pointer = vision_encoder_actor::stateful_pointer<struct vision_encoder_state>;

  vision_encoder_core(self_pointer self, vision_encoder_options options);

  caf::result<media_prepared> prepare(const prepare_media& message);
  caf::result<rows_acquired> acquire(const acquire_rows& message);
  void release(request_id id);
  void use_tower(const tower_ready& ready);
  void lose_tower(const group_lost& lost);
  void end_towers(const groups_ended& ended);
  vision_statistics statistics() const;

  const visual_rows& rows() const { return rows_; }
  const vision_slots& slots() const { return slots_; }

 private:
  using request_pointer = std::shared_ptr<const completion_request>;

  /// An item on its way through a worker.
  struct pixel_job {
    request_pointer request;
    int32_t media_index = 0;
    bool for_claim = false;  // else for the request's preparation
    plan::media_digest digest{};  // of the claim
  };
  struct preparation {
    std::vector<plan::media_digest> digests;
    size_t missing = 0;
    caf::typed_response_promise<media_prepared> promise;
  };
  struct acquisition {
    request_pointer request;
    std::shared_ptr<const plan::prompt> prompt;
    caf::typed_response_promise<rows_acquired> promise;
  };

  void give_work();
  void start(pixel_job job);
  void finish_job(const pixel_job& job, const media_processed& processed);
  void fail_job(const pixel_job& job, const caf::error& failure);
  void take_digest(const pixel_job& job, const media_processed& processed);
  void take_claimed_pixels(const pixel_job& job, const media_processed& processed);

  void serve_waiting();
  pixel_job job_for(const plan::media_digest& digest) const;
  void feed_tower();
  void take_encoded(uint64_t tower, int32_t slot, const media_encoded& encoded);
  void take_tower_failure(uint64_t tower, int32_t slot, const caf::error& failure);
  void fail_claim(const plan::media_digest& digest, const std::string& why);
  void answer_ready();
  rows_acquired rows_of(request_id id, const plan::prompt& prompt) const;

  self_pointer self_;
  vision_encoder_options options_;
  visual_rows rows_;
  patch_cache pixels_;
  std::vector<media_worker_actor> free_workers_;
  std::deque<pixel_job> jobs_;
  std::unordered_map<request_id, preparation> preparations_;
  std::map<request_id, acquisition> acquisitions_;  // not answered yet
  std::unordered_map<plan::media_digest, std::vector<int32_t>, media_digest_hash> claims_;
  vision_slots slots_;
  std::optional<tower_ready> tower_;  // empty while there is none to encode
  uint64_t num_towers_ = 0;           // so far: answers of earlier ones have no effect
  std::string towers_ended_;          // why there will be none; empty: there may be
  int64_t graph_captures_after_start_ = 0;
  int64_t arena_allocations_after_start_ = 0;
  scheduling::pacing_statistics pacing_;
};

struct vision_encoder_state {
  std::unique_ptr<vision_encoder_core> core;
  static inline const char* name = "vision_encoder";
};

vision_encoder_actor::behavior_type vision_encoder(
    vision_encoder_actor::stateful_pointer<vision_encoder_state> self,
    vision_encoder_options options);

/// The items behind a prompt's spans: digest and rows of each picture or clip once.
std::vector<visual_rows::visual_item> items_of(const plan::prompt& prompt);

}  // namespace troupe::actors
