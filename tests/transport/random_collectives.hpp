#pragma once

#include "gpu/backend.hpp"
#include "transport/symmetric_arena.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::testing {

/// Rounds of random collectives among ranks: what each of them is told alike.
struct collective_task {
  gpu::device_kind device = gpu::device_kind::cpu;
  int32_t ranks = 2;
  int64_t collectives = 1000;  // at least
  uint32_t seed = 1;
};

/// Where rank `rank` runs: a device of its own where there are as many.
gpu::backend_options backend_of(const collective_task& task, int32_t rank);
transport::group_placement placement_of(const collective_task& task);

/// The one lane that they use.
std::vector<transport::lane_request> collective_lanes(const collective_task& task);

/// What one rank saw.
struct collective_outcome {
  int64_t collectives = 0;
  int64_t wrong_rows =
      0;  // that differ from the reference in some bit, or should have been left alone
  uint64_t digest = 0;      // of all normed rows: equal on all ranks
  std::string first_wrong;  // which it was
};

/// Runs the task as one rank, on the calling thread: captures graphs of all-reduces and gathers of
/// many shapes, and replays them in random order with random live counts. After each replay, what
/// the residual stream and the gathered values added up to is compared with a reference made on the
/// host, which sums in rank order. Throws what a rank throws.
collective_outcome run_random_collectives(const collective_task& task, int32_t rank,
                                          const std::vector<int>& file_descriptors);

}  // namespace troupe::testing
