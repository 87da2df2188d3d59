#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/lane_view.hpp"

#include <cstdint>

namespace troupe::gpu::cuda {

/// Sends one flagged word forth and back between ranks 0 and 1 of `lane`, `trips` times, and writes
/// the nanoseconds that all but the first took to `elapsed_ns`; 0 if the peer was later than the
/// lane's timeout. For a lane that nothing else ever uses, and once: the words stay.
void launch_flag_trips(const lane_view& lane, int32_t trips, uint64_t* elapsed_ns,
                       const launch_context& on);

}  // namespace troupe::gpu::cuda
