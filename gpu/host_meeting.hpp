#pragma once

#include "gpu/lane_view.hpp"

namespace troupe::gpu {

/// Lets the hosts of a lane's ranks meet before each launches a kernel that waits for the others.
/// Needed where ranks share a device and run eagerly: what a host does for the first time (loading
/// a kernel, mapping memory) may wait for all kernels of the device, so none may be waiting for
/// that host meanwhile. Graphs do nothing for the first time.
///
/// Returns when every rank has called it as often, the lane's timeout is over, or the group was
/// aborted: then the kernel finds out. How often is counted in the lane's memory, so that it begins
/// anew with it.
void meet_hosts(const lane_view& lane);

}  // namespace troupe::gpu
