#include "gpu/cuda/lane_layout.hpp"

#include "gpu/cuda/status.hpp"

namespace troupe::gpu::cuda {

void initialize_lane(const lane_view& lane, cudaStream_t stream) {
  std::byte* piece = lane.pieces[static_cast<size_t>(lane.rank)];
  check(cudaMemsetAsync(piece, 0, lane_control_bytes, stream), "zero a lane's control block");
  for (int64_t slot = 0; slot < 2; ++slot)
    check(cudaMemsetAsync(piece + lane_control_bytes + slot * lane.slot_bytes, 0, lane_word_bytes,
                          stream),
          "zero a lane's words");
}

lane_status read_lane_status(const lane_view& lane, cudaStream_t stream) {
  const auto* control =
      reinterpret_cast<const lane_control*>(lane.pieces[static_cast<size_t>(lane.rank)]);
  uint32_t status = 0;
  check(cudaMemcpyAsync(&status, &control->status, sizeof status, cudaMemcpyDeviceToHost, stream),
        "read a lane's status");
  check(cudaStreamSynchronize(stream), "read a lane's status");
  return static_cast<lane_status>(status);
}

}  // namespace troupe::gpu::cuda
