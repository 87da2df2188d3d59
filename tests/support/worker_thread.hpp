#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>

namespace troupe::testing {

/// One thread that runs what it is given, in order: for things that must live on one thread.
/// Exceptions come back through the future.
class worker_thread {
 public:
  worker_thread() : thread_([this] { loop(); }) {}
  ~worker_thread() {
    submit([this] { stopped_ = true; }).wait();
    thread_.join();
  }
  worker_thread(const worker_thread&) = delete;
  worker_thread& operator=(const worker_thread&) = delete;

  template <class Task>
  std::future<std::invoke_result_t<Task>> submit(Task task) {
    auto packaged =
        std::make_shared<std::packaged_task<std::invoke_result_t<Task>()>>(std::move(task));
    auto future = packaged->get_future();
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back([packaged] { (*packaged)(); });
    }
    wake_.notify_one();
    return future;
  }
  /// Runs `task` there and waits for it.
  template <class Task>
  std::invoke_result_t<Task> call(Task task) {
    return submit(std::move(task)).get();
  }

 private:
  void loop() {
    while (!stopped_) take()();
  }
  std::function<void()> take() {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return !tasks_.empty(); });
    auto task = std::move(tasks_.front());
    tasks_.pop_front();
    return task;
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stopped_ = false;  // touched on the thread alone
  std::thread thread_;
};

}  // namespace troupe::testing
