#pragma once

#include "gpu/backend.hpp"
#include "gpu/error.hpp"
#include "support/device_fault.hpp"
#include "support/forwarding_operations.hpp"

#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <utility>

namespace troupe::testing {

/// Names the folder in which a test orders faults of backends in other processes. Each order is a file; the
/// first process that meets it removes it and has the fault:
///
///   lose-encode   the device is lost in the middle of an encoder run
///   lose-step     the device is lost in the middle of a step
///   fault-step    the same, and it is a CUDA device that really is
///   fail-step     a copy of a step fails, and nothing else: the device is as it was
///   stall-step    a step of a process that has run three does not go on, before the collective in which its
///                 peers wait; `stalled` tells where
///   stall-encode  an encoder run does not go on; the file `stalled` then tells in which process
///   stall-slices  the same, behind the third slice of a run
inline constexpr const char* fault_folder_variable = "TROUPE_TEST_FAULTS";

class faulty_operations : public forwarding_operations {
 public:
  /// `encodes`: it is the vision tower's.
  faulty_operations(std::unique_ptr<gpu::operations> inner, std::filesystem::path orders,
                    bool encodes)
      : forwarding_operations(std::move(inner)), orders_(std::move(orders)), encodes_(encodes) {}

  /// Of a step's inputs, before its kernels; begins each encoder run.
  void upload(gpu::tensor_view destination, const void* source, int64_t bytes) override {
    marks_in_run_ = 0;
    if (steps_ >= 3) stall_if_ordered("stall-step");
    if (!encodes_ && take_order("fail-step")) throw gpu::error("told to fail");
    forwarding_operations::upload(destination, source, bytes);
  }
  /// Of each encoder run, behind its uploads and behind each of its slices.
  std::unique_ptr<gpu::milestone> mark() override {
    if (!encodes_) return forwarding_operations::mark();
    lose_if_ordered("lose-encode");
    stall_if_ordered("stall-encode");
    if (marks_in_run_++ == 3) stall_if_ordered("stall-slices");
    return forwarding_operations::mark();
  }
  /// Of the tokens of each step.
  void download(void* destination, gpu::tensor_view source, int64_t bytes) override {
    lose_if_ordered("lose-step");
    if (take_order("fault-step")) provoke_device_fault();
    ++steps_;
    forwarding_operations::download(destination, source, bytes);
  }

 private:
  bool take_order(const std::string& name) const {
    return ::unlink((orders_ / name).c_str()) == 0;
  }
  /// Once lost, always lost.
  void lose_if_ordered(const std::string& name) {
    lost_ = lost_ || take_order(name);
    if (lost_) throw gpu::device_lost("told to lose the device");
  }
  void stall_if_ordered(const std::string& name) const {
    if (!take_order(name)) return;
    const auto unfinished = orders_ / "stalled.new";
    std::ofstream(unfinished) << ::getpid();
    std::filesystem::rename(unfinished, orders_ / "stalled");
    std::this_thread::sleep_for(std::chrono::minutes{5});
  }

  std::filesystem::path orders_;
  bool encodes_;
  int32_t marks_in_run_ = 0;
  bool lost_ = false;
  int32_t steps_ = 0;
};

/// Backends as the options ask for, faulty if the environment names a folder of orders.
inline std::unique_ptr<gpu::operations> make_faulty_operations(const gpu::backend_options& options) {
  auto backend = gpu::make_operations(options);
  const char* folder = std::getenv(fault_folder_variable);
  if (folder == nullptr) return backend;
  return std::make_unique<faulty_operations>(std::move(backend), folder, options.background);
}

}  // namespace troupe::testing
