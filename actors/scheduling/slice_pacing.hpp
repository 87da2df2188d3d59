#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

namespace troupe::scheduling {

struct pacing_statistics {
  int64_t slices_issued = 0;
  int64_t steps_passed_over = 0;  // in which a slice was ready and had to wait for another step
};

/// When a vision tower may give the device it shares with a shard the next slice of its work, so
/// that steps stay even. A slice that is granted in a step runs between that step and the next:
///
///   device   | step 7 | slice | step 8 | slice | step 9 (reads a prompt, generates) | step 10 |
///   granted          in 7            in 8                            none in 9
///
/// One slice a step, and one more for every `time_per_slice` that the step lasts: a long step is
/// disturbed in proportion. None for a step that reads a prompt beside sequences that generate,
/// since those wait longer for it already; but after `max_passed_over` such steps that a slice
/// waited for, one. While no step is under way, and none is expected, the tower is free.
///
/// Holds no clock and decides nothing but time. One at a time: the owner locks.
class slice_pacing {
 public:
  using clock = std::chrono::steady_clock;

  /// As many as a picture of a megapixel needs to be read in chunks of 160 tokens.
  static constexpr int32_t max_passed_over = 8;
  /// Of a long step's time, slices take so much at most.
  static constexpr int32_t slice_share_percent = 10;
  /// A shard whose last step ended longer ago is idle: many times what lies between two steps.
  static constexpr std::chrono::microseconds pause_max{500};
  /// To an idle shard's device, so many slices at most are given ahead: one runs while the next is
  /// on its way, and the first step after a pause waits for no more.
  static constexpr int32_t slices_ahead = 2;

  enum class step_kind : uint8_t {
    uniform,  // reads prompts, or generates
    mixed,    // both
  };

  /// `slice`: what a slice takes of the device. 0, as at first: the tower is never held back.
  void pace(std::chrono::microseconds slice) {
    time_per_slice_ = slice * 100 / slice_share_percent;
  }
  bool paced() const { return time_per_slice_.count() > 0; }

  void step_begins(step_kind kind, clock::time_point now);
  /// The step is done or given up.
  void step_ends(clock::time_point now);
  /// Whether the next slice may be issued now; then it counts as issued. `ahead`: slices that were
  /// issued and are not done. A tower asks again and again while a slice is ready.
  bool grant(clock::time_point now, int32_t ahead);

  const pacing_statistics& statistics() const { return statistics_; }

 private:
  struct step {
    step_kind kind = step_kind::uniform;
    clock::time_point begin;
    int64_t slices = 0;   // granted in it
    bool wanted = false;  // one was ready and not granted
  };

  bool may_issue(clock::time_point now, int32_t ahead) const;
  int64_t slices_in_step(clock::time_point now) const;

  std::chrono::microseconds time_per_slice_{0};
  std::optional<step> step_;  // under way
  std::optional<clock::time_point> last_end_;
  int32_t passed_over_ = 0;  // steps in a row
  pacing_statistics statistics_;
};

}  // namespace troupe::scheduling
