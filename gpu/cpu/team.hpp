#pragma once

#include "gpu/cpu/kernels.hpp"

#include <omp.h>

#include <algorithm>
#include <cstdint>

namespace troupe::gpu::cpu {

/// The threads of one rank. OpenMP ties a team to the thread that opens it, so a team is used from
/// the thread that made it; oneDNN works with the same team.
class team {
 public:
  explicit team(int32_t num_threads) : num_threads_(num_threads) {
    omp_set_dynamic(0);
    omp_set_num_threads(num_threads);
  }

  int32_t size() const { return num_threads_; }

  /// Calls work(row_range) so that all `rows` are covered once, each thread one contiguous range of
  /// at least `grain` rows.
  template <class Work>
  void for_rows(int64_t rows, int64_t grain, const Work& work) const {
    const int64_t parts = std::min<int64_t>(num_threads_, rows / std::max<int64_t>(grain, 1));
    if (parts <= 1) {
      if (rows > 0) work(row_range{0, rows});
      return;
    }
#pragma omp parallel for num_threads(num_threads_) schedule(static, 1)
    for (int64_t part = 0; part < parts; ++part)
      work(row_range{rows * part / parts, rows * (part + 1) / parts});
  }

  /// Calls work(task, thread) for every task; a thread that is done takes the next.
  template <class Work>
  void for_tasks(int64_t tasks, const Work& work) const {
    if (num_threads_ == 1 || tasks <= 1) {
      for (int64_t task = 0; task < tasks; ++task) work(task, 0);
      return;
    }
#pragma omp parallel for num_threads(num_threads_) schedule(dynamic, 1)
    for (int64_t task = 0; task < tasks; ++task) work(task, omp_get_thread_num());
  }

 private:
  int32_t num_threads_;
};

}  // namespace troupe::gpu::cpu
