#include "gpu/cuda/event.hpp"

#include "gpu/cuda/status.hpp"

namespace troupe::gpu::cuda {

event::event(event_timing timing) {
  const unsigned flags = timing == event_timing::on ? cudaEventDefault : cudaEventDisableTiming;
  check(cudaEventCreateWithFlags(&handle_, flags), "cudaEventCreate");
}

event::~event() {
  cudaEventDestroy(handle_);
}

void event::record(cudaStream_t stream) {
  check(cudaEventRecord(handle_, stream), "cudaEventRecord");
}

bool event::passed() const {
  const cudaError_t status = cudaEventQuery(handle_);
  if (status != cudaErrorNotReady) check(status, "cudaEventQuery");
  return status == cudaSuccess;
}

void event::wait(const char* work) const {
  check(cudaEventSynchronize(handle_), work);
}

void event::hold_back(cudaStream_t stream) const {
  check(cudaStreamWaitEvent(stream, handle_, cudaEventWaitDefault), "cudaStreamWaitEvent");
}

float event::milliseconds_since(const event& begin) const {
  float elapsed = 0;
  check(cudaEventElapsedTime(&elapsed, begin.handle_, handle_), "cudaEventElapsedTime");
  return elapsed;
}

}  // namespace troupe::gpu::cuda
