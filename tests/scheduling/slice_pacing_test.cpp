#include "actors/scheduling/slice_pacing.hpp"

#include <boost/test/unit_test.hpp>

#include <random>

using namespace troupe;
using namespace std::chrono_literals;
using scheduling::slice_pacing;
using kind = slice_pacing::step_kind;

namespace {

/// A millisecond a slice, so one more for every ten that a step lasts; time passes when the test
/// says so.
struct fixture {
  fixture() { pacing.pace(1000us); }

  bool asks(int32_t ahead = 0) { return pacing.grant(now, ahead); }
  void begin(kind what = kind::uniform) { pacing.step_begins(what, now); }
  void end(std::chrono::microseconds after = 0us) {
    now += after;
    pacing.step_ends(now);
  }
  /// A step of 5 ms in which the tower asks at every tenth of a millisecond; what it was granted.
  int32_t step(kind what, std::chrono::microseconds length = 5ms) {
    begin(what);
    int32_t granted = 0;
    for (auto passed = 0us; passed < length; passed += 100us) {
      granted += asks() ? 1 : 0;
      now += 100us;
    }
    end();
    return granted;
  }

  slice_pacing pacing;
  slice_pacing::clock::time_point now{};
};

}  // namespace

BOOST_AUTO_TEST_SUITE(pacing_of_slices)

BOOST_AUTO_TEST_CASE(without_steps_the_tower_is_free_but_for_what_is_ahead) {
  fixture f;
  for (int i = 0; i < 100; ++i) BOOST_TEST(f.asks());
  BOOST_TEST(f.asks(1));
  BOOST_TEST(!f.asks(slice_pacing::slices_ahead));
  BOOST_TEST(f.pacing.statistics().slices_issued == 101);
  BOOST_TEST(f.pacing.statistics().steps_passed_over == 0);
}

BOOST_AUTO_TEST_CASE(a_step_has_one_slice) {
  fixture f;
  for (int i = 0; i < 20; ++i) BOOST_TEST(f.step(kind::uniform) == 1);
  BOOST_TEST(f.pacing.statistics().slices_issued == 20);
  BOOST_TEST(f.pacing.statistics().steps_passed_over == 0);
}

BOOST_AUTO_TEST_CASE(a_slice_that_waits_behind_the_last_step_does_not_keep_this_steps_back) {
  fixture f;
  f.begin();
  BOOST_TEST(f.asks(1));
  f.end(5ms);
  f.begin();
  BOOST_TEST(f.asks(2));
}

BOOST_AUTO_TEST_CASE(a_step_that_lasts_has_one_more_for_every_ten_slices_of_time) {
  fixture f;
  BOOST_TEST(f.step(kind::uniform, 9900us) == 1);
  BOOST_TEST(f.step(kind::uniform, 10'100us) == 2);
  BOOST_TEST(f.step(kind::uniform, 250'100us) == 26);
  BOOST_TEST(f.step(kind::mixed, 9900us) == 0);
  BOOST_TEST(f.step(kind::mixed, 250'100us) == 25);
}

BOOST_AUTO_TEST_CASE(between_two_steps_nothing_is_granted_and_after_a_pause_all) {
  fixture f;
  f.begin();
  f.end(5ms);
  BOOST_TEST(!f.asks());
  f.now += slice_pacing::pause_max - 1us;
  BOOST_TEST(!f.asks());
  f.now += 1us;
  BOOST_TEST(f.asks());
  BOOST_TEST(f.asks(1));
}

BOOST_AUTO_TEST_CASE(steps_that_read_and_generate_have_none_until_a_slice_has_waited_for_eight) {
  fixture f;
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < slice_pacing::max_passed_over; ++i) BOOST_TEST(f.step(kind::mixed) == 0);
    BOOST_TEST(f.step(kind::mixed) == 1);
  }
  BOOST_TEST(f.pacing.statistics().steps_passed_over == 3 * slice_pacing::max_passed_over);
  BOOST_TEST(f.pacing.statistics().slices_issued == 3);
}

BOOST_AUTO_TEST_CASE(a_step_without_a_prompt_ends_the_waiting) {
  fixture f;
  for (int i = 0; i < 5; ++i) f.step(kind::mixed);
  BOOST_TEST(f.step(kind::uniform) == 1);
  for (int i = 0; i < slice_pacing::max_passed_over; ++i) BOOST_TEST(f.step(kind::mixed) == 0);
  BOOST_TEST(f.step(kind::mixed) == 1);
}

BOOST_AUTO_TEST_CASE(steps_that_no_slice_waited_for_do_not_count) {
  fixture f;
  for (int i = 0; i < 100; ++i) {
    f.begin(kind::mixed);
    f.end(5ms);
  }
  BOOST_TEST(f.pacing.statistics().steps_passed_over == 0);
  BOOST_TEST(f.step(kind::mixed) == 0);
}

BOOST_AUTO_TEST_CASE(without_slices_a_run_is_never_held_back) {
  fixture f;
  f.pacing.pace(0us);
  f.begin(kind::mixed);
  BOOST_TEST(f.asks());
  BOOST_TEST(f.asks(1));
  BOOST_TEST(!f.asks(slice_pacing::slices_ahead));  // the next run, while one goes on
  f.end(5ms);
  BOOST_TEST(f.asks());
}

/// Whatever steps come, a ready slice waits for eight of them at most and the pause, or a tenth of
/// a long step; and no step of generation shorter than ten slices has two.
BOOST_AUTO_TEST_CASE(a_slice_never_waits_longer_than_stated_and_no_short_step_has_two) {
  for (uint32_t seed = 1; seed <= 200; ++seed) {
    BOOST_TEST_CONTEXT("seed " << seed) {
      fixture f;
      std::mt19937 random(seed);
      int32_t without = 0;  // steps in a row
      for (int i = 0; i < 300; ++i) {
        const auto what = random() % 4 != 0 ? kind::mixed : kind::uniform;
        const auto length = (1 + random() % 99) * 100us;  // below ten slices
        const int32_t granted = f.step(what, length);
        BOOST_REQUIRE(granted <= 1);
        without = granted > 0 ? 0 : without + 1;
        BOOST_REQUIRE(without <= slice_pacing::max_passed_over);
        f.now += random() % 2000 * 1us;
      }
    }
  }
}

BOOST_AUTO_TEST_SUITE_END()
