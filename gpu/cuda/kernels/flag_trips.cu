#include "gpu/cuda/kernels/flag_trips.hpp"
#include "gpu/cuda/kernels/lane.cuh"
#include "gpu/cuda/kernels/launch.cuh"

namespace troupe::gpu::cuda {
namespace {

__device__ uint64_t* first_word(const lane_view& lane, int32_t rank) {
  return reinterpret_cast<uint64_t*>(lane.pieces[rank] + lane_control_bytes);
}

/// False if it did not come in time.
__device__ bool wait_for_word(const uint64_t* address, uint32_t epoch, uint64_t deadline_ns) {
  for (uint32_t polls = 1; epoch_of(load_word(address)) != epoch; ++polls)
    if (polls % polls_per_check == 0 && global_time_ns() >= deadline_ns) return false;
  return true;
}

__global__ void flag_trips_kernel(const __grid_constant__ lane_view lane, int32_t trips,
                                  uint64_t* elapsed_ns) {
  const bool first = lane.rank == 0;
  uint64_t* theirs = first_word(lane, 1 - lane.rank);
  const uint64_t* own = first_word(lane, lane.rank);
  uint64_t begin_ns = 0;
  const uint64_t deadline_ns = global_time_ns() + static_cast<uint64_t>(lane.timeout_ns);
  *elapsed_ns = 0;
  for (int32_t trip = 1; trip <= trips; ++trip) {
    if (first) store_word(theirs, word_of(0, trip));
    if (!wait_for_word(own, trip, deadline_ns)) return;
    if (!first) store_word(theirs, word_of(0, trip));
    if (trip == 1) begin_ns = global_time_ns();
  }
  *elapsed_ns = global_time_ns() - begin_ns;
}

}  // namespace

void launch_flag_trips(const lane_view& lane, int32_t trips, uint64_t* elapsed_ns,
                       const launch_context& on) {
  launch_kernel("flag_trips", flag_trips_kernel, 1, 1, 0, on, lane, trips, elapsed_ns);
}

}  // namespace troupe::gpu::cuda
