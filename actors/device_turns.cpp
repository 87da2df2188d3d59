#include "actors/device_turns.hpp"

#include <utility>

namespace troupe::actors {
namespace {

/// A chunk of a prompt has more than one token; one of a single token costs no more than
/// generating.
scheduling::slice_pacing::step_kind kind_of(const plan::step_plan& plan) {
  bool reads = false, generates = false;
  for (int32_t i = 0; i < plan.num_sequences(); ++i) {
    const auto at = static_cast<size_t>(i);
    const int32_t tokens = plan.query_start[at + 1] - plan.query_start[at];
    reads |= tokens > 1;
    generates |= tokens == 1;
  }
  using enum scheduling::slice_pacing::step_kind;
  return reads && generates ? mixed : uniform;
}

}  // namespace

double slice_flops(std::chrono::microseconds time, const gpu::backend_options& backend) {
  if (time.count() == 0) return 0;
  return std::chrono::duration<double>(time).count() * gpu::expected_flop_rate(backend);
}

void device_turns::open(std::chrono::microseconds slice) {
  const std::lock_guard lock(mutex_);
  pacing_.pace(slice);
  slice_done_.reset();
}

void device_turns::step_begins(gpu::operations& backend, const plan::step_plan& plan) {
  std::shared_ptr<const gpu::milestone> slice;
  {
    const std::lock_guard lock(mutex_);
    slice = std::exchange(slice_done_, nullptr);
    // A host backend issues and runs in one: such a step is under way at once, and there is nothing
    // to order.
    being_issued_ = backend.memory() != gpu::memory_kind::host;
    pacing_.step_begins(kind_of(plan), now_());
  }
  if (slice != nullptr) backend.wait_for(*slice);
}

void device_turns::step_issued(gpu::operations& backend) {
  std::shared_ptr<const gpu::milestone> done = backend.mark();
  const std::lock_guard lock(mutex_);
  step_done_ = std::move(done);
  being_issued_ = false;
}

void device_turns::step_ends() noexcept {
  const std::lock_guard lock(mutex_);
  being_issued_ = false;
  step_done_.reset();
  pacing_.step_ends(now_());
}

device_turns::turn device_turns::next_turn(const model::vision_runner& tower, int32_t ahead) {
  const std::lock_guard lock(mutex_);
  // Steps do not wait for work that is far longer than a slice: low priority must do.
  const bool in_order = pacing_.paced() && tower.slices_are_bounded();
  if (pacing_.paced() && being_issued_) return {};
  if (!pacing_.grant(now_(), ahead)) return {};
  return {true, in_order, in_order ? step_done_ : nullptr};
}

std::shared_ptr<gpu::milestone> device_turns::issue_slice(model::vision_runner& tower,
                                                          int32_t ahead) {
  const turn granted = next_turn(tower, ahead);
  if (!granted.granted) return nullptr;
  if (granted.follows != nullptr) tower.wait_for(*granted.follows);
  std::shared_ptr<gpu::milestone> done = tower.issue_slice();
  if (granted.in_order) {
    const std::lock_guard lock(mutex_);
    slice_done_ = done;
  }
  return done;
}

scheduling::pacing_statistics device_turns::statistics() const {
  const std::lock_guard lock(mutex_);
  return pacing_.statistics();
}

}  // namespace troupe::actors
