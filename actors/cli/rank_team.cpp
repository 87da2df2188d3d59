#include "actors/cli/rank_team.hpp"

#include <chrono>
#include <stdexcept>
#include <utility>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;

constexpr std::chrono::minutes latest{1};

}  // namespace

rank_team::rank_team(int32_t ranks) {
  for (int32_t rank = 1; rank < ranks; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
}

rank_team::~rank_team() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  for (auto& thread : threads_) thread.join();
}

void rank_team::run(const std::function<void(int32_t)>& task) {
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    running_ = size() - 1;
    failed_ = false;
    arrivals_ = 0;
    ++round_;
  }
  changed_.notify_all();
  attempt(0);
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return running_ == 0; });
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void rank_team::serve(int32_t rank) {
  uint64_t served = 0;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stopping_ || round_ != served; });
    if (stopping_) return;
    served = round_;
    lock.unlock();
    attempt(rank);
    lock.lock();
    if (--running_ == 0) changed_.notify_all();
  }
}

void rank_team::attempt(int32_t rank) {
  try {
    (*task_)(rank);
  } catch (...) {
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = std::current_exception();
    failed_ = true;
  }
}

void rank_team::meet() {
  const auto ranks = static_cast<uint64_t>(size());
  const uint64_t all = (arrivals_.fetch_add(1) / ranks + 1) * ranks;
  const auto deadline = clock::now() + latest;
  while (arrivals_.load() < all) {
    if (failed_.load()) throw std::runtime_error("another rank failed");
    if (clock::now() >= deadline) throw std::runtime_error("another rank is a minute late");
    std::this_thread::yield();
  }
}

}  // namespace troupe::cli
