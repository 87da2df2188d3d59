#include "gpu/error.hpp"
#include "gpu/nccl.hpp"

/// What a build without NCCL answers.
namespace troupe::gpu {
namespace {

constexpr auto* missing = "this build has no NCCL (its header was not found)";

}  // namespace

std::string nccl_version() {
  return {};
}

nccl_id make_nccl_id() {
  throw error(missing);
}

std::shared_ptr<cuda::nccl_communicator> join_nccl(const nccl_membership&) {
  throw error(missing);
}

std::unique_ptr<repeated_run> capture_nccl_rounds(std::shared_ptr<cuda::nccl_communicator>,
                                                  const nccl_rounds&) {
  throw error(missing);
}

}  // namespace troupe::gpu
