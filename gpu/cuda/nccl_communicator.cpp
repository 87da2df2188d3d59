#include "gpu/cuda/nccl_communicator.hpp"

#include "config/ensure.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/error.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <thread>

namespace troupe::gpu {

namespace cuda {
namespace {

ncclDataType_t type_of(const tensor_view& view) {
  config::ensure(view.type == dtype::f32 || view.type == dtype::bf16,
                 "NCCL sums f32 and bf16, not dtype {}", static_cast<int>(view.type));
  return view.type == dtype::f32 ? ncclFloat32 : ncclBfloat16;
}

}  // namespace

void nccl_communicator::abort_handle::operator()(ncclComm* handle) const {
  nccl().abort(handle);
}

nccl_communicator::nccl_communicator(const nccl_membership& membership)
    : timeout_(membership.timeout) {
  ncclUniqueId id{};
  static_assert(sizeof id.internal == sizeof membership.id);
  std::copy(membership.id.begin(), membership.id.end(), id.internal);
  ncclConfig_t wanted = NCCL_CONFIG_INITIALIZER;
  wanted.blocking = 0;
  ncclComm_t handle = nullptr;
  const ncclResult_t status = nccl().join(&handle, membership.size, id, membership.rank, &wanted);
  handle_.reset(handle);
  if (handle == nullptr) check(status, "ncclCommInitRankConfig");
  settle(status, "ncclCommInitRankConfig");
}

void nccl_communicator::all_reduce(const tensor_view& output, const tensor_view& input,
                                   cudaStream_t stream) {
  settle(nccl().all_reduce(input.data, output.data, static_cast<size_t>(input.elements()),
                           type_of(input), ncclSum, handle(), stream),
         "ncclAllReduce");
}

void nccl_communicator::wait(cudaStream_t stream) {
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  ncclResult_t others = ncclSuccess;
  for (;;) {
    const cudaError_t status = cudaStreamQuery(stream);
    if (status != cudaErrorNotReady) return check(status, "collectives of NCCL");
    check(nccl().async_error(handle(), &others), "ncclCommGetAsyncError");
    const bool late = std::chrono::steady_clock::now() >= deadline;
    if (!late && (others == ncclSuccess || others == ncclInProgress)) continue;
    handle_.reset();
    check(cudaStreamSynchronize(stream), "aborted collectives of NCCL");
    throw error(
        late ? fmt::format("a rank is later than {} ms in a collective of NCCL", timeout_.count())
             : fmt::format("a collective of NCCL failed: {}", nccl().error_string(others)));
  }
}

ncclComm* nccl_communicator::handle() const {
  if (!handle_) throw error("the communicator was aborted");
  return handle_.get();
}

ncclWindow_t nccl_communicator::open_window(void* memory, size_t bytes) {
  if (!nccl().has_windows())
    throw error(fmt::format("NCCL {} has no symmetric windows", nccl_version()));
  // Without common memory the call succeeds and leaves no window.
  ncclWindow_t window = nullptr;
  settle(nccl().register_window(handle(), memory, bytes, &window, NCCL_WIN_COLL_SYMMETRIC),
         "ncclCommWindowRegister");
  if (window == nullptr) throw error("NCCL gives no symmetric window between these devices");
  return window;
}

void nccl_communicator::close_window(ncclWindow_t window) {
  settle(nccl().deregister_window(handle(), window), "ncclCommWindowDeregister");
}

void nccl_communicator::settle(ncclResult_t status, const char* what) {
  const auto deadline = std::chrono::steady_clock::now() + timeout_;
  while (status == ncclInProgress) {
    if (std::chrono::steady_clock::now() >= deadline)
      throw error(fmt::format("{} waits for another rank for {} ms", what, timeout_.count()));
    std::this_thread::yield();
    check(nccl().async_error(handle(), &status), "ncclCommGetAsyncError");
  }
  check(status, what);
}

}  // namespace cuda

std::string nccl_version() {
  const cuda::nccl_calls* calls = cuda::find_nccl();
  int version = 0;
  if (calls == nullptr || calls->get_version(&version) != ncclSuccess) return {};
  return fmt::format("{}.{}.{}", version / 10'000, version / 100 % 100, version % 100);
}

nccl_id make_nccl_id() {
  ncclUniqueId made{};
  cuda::check(cuda::nccl().make_id(&made), "ncclGetUniqueId");
  nccl_id id{};
  std::copy(std::begin(made.internal), std::end(made.internal), id.begin());
  return id;
}

std::shared_ptr<cuda::nccl_communicator> join_nccl(const nccl_membership& membership) {
  return std::make_shared<cuda::nccl_communicator>(membership);
}

}  // namespace troupe::gpu
