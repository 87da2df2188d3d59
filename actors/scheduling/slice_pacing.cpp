#include "actors/scheduling/slice_pacing.hpp"

#include "config/ensure.hpp"

namespace troupe::scheduling {

void slice_pacing::step_begins(step_kind kind, clock::time_point now) {
  config::ensure(!step_, "a step begins while another is under way");
  step_ = step{kind, now};
}

void slice_pacing::step_ends(clock::time_point now) {
  config::ensure(step_.has_value(), "a step ends, but none is under way");
  if (step_->wanted && step_->slices == 0) {
    ++passed_over_;
    ++statistics_.steps_passed_over;
  }
  step_.reset();
  last_end_ = now;
}

bool slice_pacing::grant(clock::time_point now, int32_t ahead) {
  if (!may_issue(now, ahead)) {
    if (step_) step_->wanted = true;
    return false;
  }
  if (step_) ++step_->slices;
  passed_over_ = 0;
  ++statistics_.slices_issued;
  return true;
}

bool slice_pacing::may_issue(clock::time_point now, int32_t ahead) const {
  if (paced() && step_) return step_->slices < slices_in_step(now);
  const bool idle = !paced() || !last_end_ || now - *last_end_ >= pause_max;
  return idle && ahead < slices_ahead;
}

int64_t slice_pacing::slices_in_step(clock::time_point now) const {
  const bool waits = step_->kind == step_kind::mixed && passed_over_ < max_passed_over;
  return (waits ? 0 : 1) + (now - step_->begin) / time_per_slice_;
}

}  // namespace troupe::scheduling
