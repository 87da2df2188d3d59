#pragma once

#include <cuda_runtime_api.h>

namespace troupe::gpu::cuda {

enum class event_timing : bool { off, on };

/// A point in the work of a stream, on the calling thread's current device.
class event {
 public:
  /// Without timing it costs the stream less.
  explicit event(event_timing timing);
  ~event();
  event(const event&) = delete;
  event& operator=(const event&) = delete;

  /// Behind what `stream` was given so far. Throws gpu::error.
  void record(cudaStream_t stream);
  /// Whether the device came past the last record; true of an event that was never recorded. Throws what the
  /// device reports.
  bool passed() const;
  /// Blocks the calling thread until it did. Throws what the device reports, as a failure of `work`.
  void wait(const char* work) const;
  /// What `stream` is given from now on begins when the device came past the last record. Throws gpu::error.
  void hold_back(cudaStream_t stream) const;
  /// Milliseconds from `begin` to here, both passed and with timing. Throws gpu::error.
  float milliseconds_since(const event& begin) const;

 private:
  cudaEvent_t handle_ = nullptr;
};

}  // namespace troupe::gpu::cuda
