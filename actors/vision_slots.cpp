#include "actors/vision_slots.hpp"

#include "config/ensure.hpp"
#include "model/parallel_slices.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace troupe::actors {
namespace {

// Bytes that make it worth starting a thread.
constexpr int64_t copy_grain = int64_t{4} << 20;

int64_t group_patches(const model::patch_grid& grid) { return int64_t{grid.height} * grid.width; }

void copy_bytes(std::byte* target, const std::byte* source, int64_t count) {
  model::for_slices(count, copy_grain, [&](int64_t first, int64_t last) {
    std::memcpy(target + first, source + first, static_cast<size_t>(last - first));
  });
}

}  // namespace

vision_slots::vision_slots(std::shared_ptr<const model::vision_staging> memory, int32_t max_segments)
    : memory_(std::move(memory)),
      max_patches_(memory_->slot(0).rows()),
      max_segments_(max_segments) {
  for (int32_t slot = model::vision_staging::num_slots; slot-- > 0;) free_.push_back(slot);
}

void vision_slots::enqueue(picture wanted) {
  const auto& patches = *wanted.patches;
  config::ensure(patches.type == memory_->slot(0).type, "pixels of dtype {}, expected {}",
                 static_cast<int>(patches.type), static_cast<int>(memory_->slot(0).type));
  config::ensure(group_patches(patches.grid) <= max_patches_ && max_segments_ > 0,
                 "{} patches in a temporal group, a slot holds {}", group_patches(patches.grid),
                 max_patches_);
  queue_.push_back({std::move(wanted), 0});
}

void vision_slots::fill() {
  while (!free_.empty() && !queue_.empty()) {
    const int32_t slot = free_.back();
    free_.pop_back();
    fill(slot);
    filled_.push_back(slot);
  }
}

void vision_slots::fill(int32_t slot) {
  const auto place = memory_->slot(slot);
  int64_t patches = 0, segments = 0;
  while (!queue_.empty()) {
    auto& next = queue_.front();
    const auto& source = *next.wanted.patches;
    const int64_t each = group_patches(source.grid);
    const int64_t groups = std::min({int64_t{source.grid.t} - next.next_group,
                                     (max_patches_ - patches) / each, max_segments_ - segments});
    if (groups == 0) return;
    const int64_t group_bytes = std::ssize(source.pixels) / source.grid.t;
    copy_bytes(place.slice_rows(patches, groups * each).data,
               source.pixels.data() + next.next_group * group_bytes, groups * group_bytes);
    auto& pieces = slots_[static_cast<size_t>(slot)].pieces;
    pieces.push_back(cut(next, static_cast<int32_t>(groups)));
    if (pieces.back().last) queue_.pop_front();
    patches += groups * each;
    segments += groups;
  }
}

vision_slots::piece vision_slots::cut(waiting_picture& from, int32_t num_groups) const {
  const auto& [digest, patches, rows] = from.wanted;
  const auto& grid = patches->grid;
  const auto group_rows = std::ssize(rows) / grid.t;
  const auto first = rows.begin() + from.next_group * group_rows;
  from.next_group += num_groups;
  return {digest,
          {{num_groups, grid.height, grid.width}, {first, first + num_groups * group_rows}},
          from.next_group == grid.t,
          false};
}

std::optional<encode_media> vision_slots::hand_over() {
  if (filled_.empty()) return std::nullopt;
  encode_media run;
  run.slot = filled_.front();
  for (const auto& part : slots_[static_cast<size_t>(run.slot)].pieces) run.jobs.push_back(part.job);
  filled_.pop_front();
  at_tower_.push_back(run.slot);
  return run;
}

vision_slots::digests vision_slots::finish(int32_t slot) {
  digests complete;
  for (const auto& part : slots_[static_cast<size_t>(slot)].pieces)
    if (part.last && !part.given_up) complete.push_back(part.digest);
  free(slot);
  return complete;
}

vision_slots::digests vision_slots::fail(int32_t slot) {
  auto lost = give_up_all(slot);
  free(slot);
  return lost;
}

vision_slots::digests vision_slots::take_back(blame suspects) {
  digests lost;
  while (!at_tower_.empty()) {
    const int32_t slot = at_tower_.back();
    at_tower_.pop_back();
    filled_.push_front(slot);
    auto& content = slots_[static_cast<size_t>(slot)];
    if (suspects == blame::at_tower) ++content.losses;
    if (content.losses < max_losses) continue;
    const auto given_up = fail(slot);
    lost.insert(lost.end(), given_up.begin(), given_up.end());
  }
  return lost;
}

vision_slots::digests vision_slots::clear() {
  digests lost;
  for (int32_t slot = 0; slot < model::vision_staging::num_slots; ++slot) {
    if (slots_[static_cast<size_t>(slot)].pieces.empty()) continue;
    const auto given_up = fail(slot);
    lost.insert(lost.end(), given_up.begin(), given_up.end());
  }
  for (const auto& [wanted, group] : std::exchange(queue_, {})) lost.push_back(wanted.digest);
  return lost;
}

/// Neither waits for a slot any more nor counts as encoded when the slots that hold pieces of it are.
void vision_slots::give_up(const plan::media_digest& digest) {
  std::erase_if(queue_, [&](const auto& waiting) { return waiting.wanted.digest == digest; });
  for (auto& content : slots_)
    for (auto& part : content.pieces) part.given_up |= part.digest == digest;
}

vision_slots::digests vision_slots::give_up_all(int32_t slot) {
  digests lost;
  for (const auto& part : slots_[static_cast<size_t>(slot)].pieces)
    if (!part.given_up) lost.push_back(part.digest);
  for (const auto& digest : lost) give_up(digest);
  return lost;
}

void vision_slots::free(int32_t slot) {
  std::erase(filled_, slot);
  std::erase(at_tower_, slot);
  slots_[static_cast<size_t>(slot)] = {};
  free_.push_back(slot);
}

std::string vision_slots::check() const {
  std::array<int32_t, model::vision_staging::num_slots> places{};
  for (const int32_t slot : free_) ++places[static_cast<size_t>(slot)];
  for (const int32_t slot : filled_) ++places[static_cast<size_t>(slot)];
  for (const int32_t slot : at_tower_) ++places[static_cast<size_t>(slot)];
  for (size_t slot = 0; slot < places.size(); ++slot) {
    if (places[slot] != 1)
      return fmt::format("staging slot {} is in {} places, expected 1", slot, places[slot]);
    const bool is_free = std::count(free_.begin(), free_.end(), static_cast<int32_t>(slot)) == 1;
    if (is_free != slots_[slot].pieces.empty())
      return fmt::format("staging slot {} holds {} pieces, but is {}", slot,
                         slots_[slot].pieces.size(), is_free ? "free" : "not free");
  }
  return {};
}

}  // namespace troupe::actors
