#include "actors/vision_slots.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <memory>
#include <numeric>
#include <vector>

using namespace troupe;
using actors::vision_slots;
using blame = vision_slots::blame;

namespace {

constexpr int32_t slot_patches = 64;
constexpr int32_t slot_segments = 4;
constexpr int32_t patch_width = 3;

plan::media_digest digest_of(uint8_t name) {
  plan::media_digest digest{};
  digest.fill(name);
  return digest;
}

struct fixture {
  /// A picture whose every pixel is its name; `t` groups of 4 x 4 patches, 4 rows each.
  vision_slots::picture picture(uint8_t name, int32_t t = 1, int32_t side = 4) const {
    auto patches = std::make_shared<model::patch_rows>();
    patches->grid = {t, side, side};
    patches->type = gpu::dtype::f32;
    patches->pixels.resize(sizeof(float) * patch_width * static_cast<size_t>(patches->grid.patches()));
    std::fill(patches->values<float>().begin(), patches->values<float>().end(), float(name));
    std::vector<int32_t> rows(static_cast<size_t>(patches->grid.visual_tokens(2)));
    std::iota(rows.begin(), rows.end(), 100 * name);
    return {digest_of(name), patches, rows};
  }

  /// First pixel of patch `patch` of a slot.
  float pixel(int32_t slot, int32_t patch) const { return *memory->slot(slot).at(patch).as<float>(); }

  actors::encode_media hand_over() {
    slots.fill();
    auto run = slots.hand_over();
    BOOST_REQUIRE(run);
    BOOST_REQUIRE_EQUAL(slots.check(), "");
    return *run;
  }

  std::shared_ptr<const model::vision_staging> memory = std::make_shared<const model::vision_staging>(
      model::staging_shape{slot_patches, patch_width, gpu::dtype::f32});
  vision_slots slots{memory, slot_segments};
};

using names = vision_slots::digests;

}  // namespace

BOOST_FIXTURE_TEST_SUITE(slots_of_the_tower, fixture)

BOOST_AUTO_TEST_CASE(pictures_share_a_run_as_far_as_they_fit) {
  for (uint8_t name = 1; name <= 5; ++name) slots.enqueue(picture(name));
  const auto run = hand_over();
  BOOST_REQUIRE(run.jobs.size() == 4U);  // of 16 patches each
  for (int32_t i = 0; i < 4; ++i) {
    BOOST_TEST((run.jobs[static_cast<size_t>(i)].grid == model::patch_grid{1, 4, 4}));
    BOOST_TEST(run.jobs[static_cast<size_t>(i)].rows.front() == 100 * (i + 1));
    BOOST_TEST(pixel(run.slot, 16 * i) == float(i + 1));
    BOOST_TEST(pixel(run.slot, 16 * i + 15) == float(i + 1));
  }
  const auto next = hand_over();
  BOOST_TEST(next.slot != run.slot);
  BOOST_TEST(next.jobs.size() == 1U);
  BOOST_TEST(pixel(next.slot, 0) == 5.0F);
  BOOST_TEST(!slots.hand_over());
}

BOOST_AUTO_TEST_CASE(a_run_holds_so_many_temporal_groups) {
  for (uint8_t name = 1; name <= 5; ++name) slots.enqueue(picture(name, 1, 2));
  BOOST_TEST(hand_over().jobs.size() == 4U);
  BOOST_TEST(hand_over().jobs.size() == 1U);
}

BOOST_AUTO_TEST_CASE(both_slots_are_filled_before_anything_is_encoded_and_then_by_turns) {
  for (uint8_t name = 1; name <= 3; ++name) slots.enqueue(picture(name, 4));
  const auto first = hand_over(), second = hand_over();
  slots.fill();
  BOOST_TEST(!slots.hand_over());  // the third waits for a slot
  BOOST_TEST(pixel(first.slot, 0) == 1.0F);
  BOOST_TEST((slots.finish(first.slot) == names{digest_of(1)}));
  const auto third = hand_over();
  BOOST_TEST(third.slot == first.slot);
  BOOST_TEST(pixel(third.slot, 0) == 3.0F);
  BOOST_TEST(pixel(second.slot, 0) == 2.0F);
}

BOOST_AUTO_TEST_CASE(a_clip_is_cut_between_groups_and_complete_with_its_last_run) {
  slots.enqueue(picture(1));
  slots.enqueue(picture(2, 6));
  const auto first = hand_over(), second = hand_over();
  BOOST_REQUIRE(first.jobs.size() == 2U);
  BOOST_TEST((first.jobs[1].grid == model::patch_grid{3, 4, 4}));
  BOOST_TEST(first.jobs[1].rows.size() == 12U);
  BOOST_TEST(first.jobs[1].rows.front() == 200);
  BOOST_REQUIRE(second.jobs.size() == 1U);
  BOOST_TEST((second.jobs[0].grid == model::patch_grid{3, 4, 4}));
  BOOST_TEST(second.jobs[0].rows.front() == 212);
  BOOST_TEST((slots.finish(first.slot) == names{digest_of(1)}));
  BOOST_TEST((slots.finish(second.slot) == names{digest_of(2)}));
}

BOOST_AUTO_TEST_CASE(a_clip_that_failed_in_one_run_is_not_complete_with_a_later_one) {
  slots.enqueue(picture(1, 10));
  slots.enqueue(picture(2));
  const auto first = hand_over(), second = hand_over();
  BOOST_TEST((slots.fail(first.slot) == names{digest_of(1)}));
  slots.enqueue(picture(1, 1));  // wanted again, with rows of its own
  BOOST_TEST(slots.finish(second.slot).empty());
  const auto third = hand_over();  // what was left of the clip is gone
  BOOST_REQUIRE(third.jobs.size() == 2U);
  BOOST_TEST((slots.finish(third.slot) == names{digest_of(2), digest_of(1)}));
}

BOOST_AUTO_TEST_CASE(what_a_lost_tower_had_is_handed_over_again_in_the_same_order) {
  for (uint8_t name = 1; name <= 3; ++name) slots.enqueue(picture(name, 4));
  const auto first = hand_over(), second = hand_over();
  BOOST_TEST(slots.take_back(blame::at_tower).empty());
  BOOST_TEST(slots.check() == "");
  const auto again = hand_over();
  BOOST_TEST(again.slot == first.slot);
  BOOST_TEST(again.jobs.front().rows == first.jobs.front().rows);
  BOOST_TEST(pixel(again.slot, 0) == 1.0F);
  BOOST_TEST(hand_over().slot == second.slot);
  BOOST_TEST((slots.finish(again.slot) == names{digest_of(1)}));
}

BOOST_AUTO_TEST_CASE(a_picture_that_was_at_two_lost_towers_is_given_up) {
  slots.enqueue(picture(1, 4));
  hand_over();
  BOOST_TEST(slots.take_back(blame::at_tower).empty());
  hand_over();
  slots.enqueue(picture(2));
  hand_over();
  BOOST_TEST((slots.take_back(blame::at_tower) == names{digest_of(1)}));
  BOOST_TEST(pixel(hand_over().slot, 0) == 2.0F);
}

BOOST_AUTO_TEST_CASE(losses_that_began_elsewhere_are_not_blamed_on_pictures) {
  slots.enqueue(picture(1, 4));
  for (int32_t loss = 0; loss < 5; ++loss) {
    hand_over();
    BOOST_TEST(slots.take_back(blame::nobody).empty());
  }
  hand_over();
  BOOST_TEST(slots.take_back(blame::at_tower).empty());
  const auto again = hand_over();
  BOOST_TEST((slots.finish(again.slot) == names{digest_of(1)}));
}

BOOST_AUTO_TEST_CASE(when_no_tower_will_come_everything_is_given_up) {
  for (uint8_t name = 1; name <= 3; ++name) slots.enqueue(picture(name, 5));
  hand_over();
  slots.fill();
  auto lost = slots.clear();
  std::sort(lost.begin(), lost.end());
  BOOST_TEST((lost == names{digest_of(1), digest_of(2), digest_of(3)}));
  BOOST_TEST(slots.check() == "");
  BOOST_TEST(!slots.hand_over());
}

BOOST_AUTO_TEST_SUITE_END()
