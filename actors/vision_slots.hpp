#pragma once

#include "actors/engine_messages.hpp"
#include "model/plan/prompt.hpp"
#include "model/vision/image_processor.hpp"
#include "model/vision/vision_staging.hpp"

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace troupe::actors {

/// Pictures with claimed rows on their way through the staging memory. Bookkeeping, and the copy of pixels:
///
///            fill                 hand_over                finish, fail
///   queue ---------> filled slot -----------> at the tower -------------> free slot
///                         ^------ take_back -------|
///
/// A slot holds one run of the tower: neighbours in the queue, and of a clip as many temporal groups as fit
/// (groups do not attend to each other in the tower). Slots reach the tower in the order of the queue, so
/// that what a run writes into rows that were given away meanwhile is overwritten by their new owner's run.
class vision_slots {
 public:
  struct picture {
    plan::media_digest digest{};
    std::shared_ptr<const model::patch_rows> patches;
    std::vector<int32_t> rows;
  };
  using digests = std::vector<plan::media_digest>;

  /// A picture that was at so many towers when they were lost may be the reason: it is not tried again.
  static constexpr int32_t max_losses = 2;
  /// Who may be the reason that a tower is lost: what it encoded, or nothing of it.
  enum class blame : uint8_t { at_tower, nobody };

  vision_slots(std::shared_ptr<const model::vision_staging> memory, int32_t max_segments);

  /// Every temporal group fits a slot, and pixels have the memory's dtype.
  void enqueue(picture wanted);
  /// Copies what waits into free slots.
  void fill();
  /// The oldest filled slot, which is at the tower from now on.
  std::optional<encode_media> hand_over();

  /// The tower encoded what is in `slot`. Returns the pictures whose rows are all there now.
  digests finish(int32_t slot);
  /// The tower could not. Returns the pictures; nothing of them is kept.
  digests fail(int32_t slot);
  /// The tower is lost: its slots will be handed over again. Returns pictures that are given up.
  digests take_back(blame suspects);
  /// No tower will come any more: everything is given up.
  digests clear();

  /// The first contradiction found, empty if none.
  std::string check() const;

 private:
  struct waiting_picture {
    picture wanted;
    int32_t next_group = 0;
  };
  /// Temporal groups of one picture.
  struct piece {
    plan::media_digest digest{};
    encode_job job;
    bool last = false;   // of its picture
    bool given_up = false;
  };
  struct slot_content {
    std::vector<piece> pieces;
    int32_t losses = 0;
  };

  void fill(int32_t slot);
  piece cut(waiting_picture& from, int32_t num_groups) const;
  void give_up(const plan::media_digest& digest);
  digests give_up_all(int32_t slot);
  void free(int32_t slot);

  std::shared_ptr<const model::vision_staging> memory_;
  int64_t max_patches_;
  int32_t max_segments_;
  std::deque<waiting_picture> queue_;
  std::array<slot_content, model::vision_staging::num_slots> slots_;
  std::vector<int32_t> free_;
  std::deque<int32_t> filled_;    // oldest first
  std::deque<int32_t> at_tower_;  // oldest first
};

}  // namespace troupe::actors
