#pragma once

#include <cstdint>

namespace troupe::scheduling {

struct verification_statistics {
  int64_t steps_verified = 0;
  int64_t mismatches = 0;          // steps that a graph got wrong
  int32_t graphs_quarantined = 0;  // of the group that runs now
};

/// Which steps are run a second time without their graph, to compare: at least one of every
/// `every`. The last step before a pause will do, once half of them went by: nobody waits for it.
/// If there is no pause, the last of them is verified with its run and answers later by the time of
/// an eager step.
class verification_schedule {
 public:
  /// 0: no step is ever verified.
  explicit verification_schedule(int32_t every) : every_(every) {}

  /// Counts a step that is about to run; true if it is to be verified with its run.
  bool verifies_next() {
    if (every_ == 0 || ++since_ < every_) return false;
    since_ = 0;
    return true;
  }
  /// Whether the step that ran last is worth verifying now that there is a pause.
  bool wants_pause() const { return since_ > every_ / 2; }
  /// It was.
  void verified_in_pause() { since_ = 0; }

 private:
  int32_t every_;
  int32_t since_ = 0;  // steps since the last one that was verified
};

}  // namespace troupe::scheduling
