#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace troupe::cli {

/// The ranks of a group as threads. Rank 0 is the calling thread, so that a single rank needs no
/// other.
class rank_team {
 public:
  explicit rank_team(int32_t ranks);
  ~rank_team();
  rank_team(const rank_team&) = delete;
  rank_team& operator=(const rank_team&) = delete;

  int32_t size() const { return static_cast<int32_t>(threads_.size()) + 1; }

  /// Calls task(rank) on every rank's thread at once and returns when all have ended. Throws what
  /// was thrown first.
  void run(const std::function<void(int32_t rank)>& task);

  /// Inside a task, on every rank: returns on all of them within a microsecond or so. Throws if
  /// another rank failed or is a minute late.
  void meet();

 private:
  void serve(int32_t rank);
  void attempt(int32_t rank);

  std::mutex mutex_;
  std::condition_variable changed_;
  const std::function<void(int32_t)>* task_ = nullptr;
  uint64_t round_ = 0;   // of `run`
  int32_t running_ = 0;  // threads that have not ended the round
  bool stopping_ = false;
  std::exception_ptr failure_;
  std::atomic<bool> failed_{false};
  std::atomic<uint64_t> arrivals_{0};  // at all meetings so far
  std::vector<std::thread> threads_;
};

}  // namespace troupe::cli
