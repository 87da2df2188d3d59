#include "actors/tower_runs.hpp"

#include <utility>

namespace troupe::actors {

void tower_runs::add(std::vector<model::encode_item> items) {
  tower_->require_fitting(items);
  waiting_.push_back(std::move(items));
  ++unfinished_;
}

int32_t tower_runs::advance() try {
  int32_t finished = collect();
  // Whoever waits for a run hears of it before a backend that does everything at once goes on.
  while (finished == 0 && begin_next() && issue_slice()) finished = collect();
  unfinished_ -= finished;
  return finished;
} catch (...) {
  give_up();
  throw;
}

/// Whether a slice is there to be issued.
bool tower_runs::begin_next() {
  if (tower_->slices_left() > 0) return true;
  if (waiting_.empty()) return false;
  const auto items = std::move(waiting_.front());
  waiting_.pop_front();
  tower_->begin(items);
  return true;
}

/// Whether it was the tower's turn.
bool tower_runs::issue_slice() {
  auto done = turns_->issue_slice(*tower_, static_cast<int32_t>(issued_.size()));
  if (done == nullptr) return false;
  issued_.push_back({std::move(done), tower_->slices_left() == 0});
  return true;
}

/// The number of runs whose last slice is done.
int32_t tower_runs::collect() {
  int32_t finished = 0;
  while (!issued_.empty() && issued_.front().done->passed()) {
    finished += issued_.front().last ? 1 : 0;
    issued_.pop_front();
  }
  return finished;
}

void tower_runs::give_up() {
  tower_->abandon();
  waiting_.clear();
  issued_.clear();
  unfinished_ = 0;
}

}  // namespace troupe::actors
