#include "gpu/arena.hpp"
#include "gpu/cuda/kernels/read_stream.hpp"
#include "gpu/cuda/nccl_communicator.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/cuda/stream.hpp"
#include "gpu/error.hpp"

#include <algorithm>
#include <utility>

namespace troupe::gpu {
namespace cuda {
namespace {

/// Memory that NCCL can make windows of.
class nccl_memory {
 public:
  explicit nccl_memory(size_t bytes) { check(nccl().allocate(&address_, bytes), "ncclMemAlloc"); }
  ~nccl_memory() { nccl().free(address_); }
  nccl_memory(const nccl_memory&) = delete;
  nccl_memory& operator=(const nccl_memory&) = delete;

  std::byte* data() const { return static_cast<std::byte*>(address_); }

 private:
  void* address_ = nullptr;
};

constexpr int64_t window_alignment = NCCL_WIN_REQUIRED_ALIGNMENT;

/// Input and output of the all-reduces, side by side: in a window, or in memory that NCCL knows
/// nothing of.
class message_memory {
 public:
  message_memory(std::shared_ptr<nccl_communicator> communicator, const nccl_rounds& wanted)
      : communicator_(std::move(communicator)), plain_("nccl_rounds", memory_kind::device) {
    const int64_t bytes = wanted.elements * size_of(wanted.type);
    const int64_t half = (bytes + window_alignment - 1) / window_alignment * window_alignment;
    std::byte* base = nullptr;
    if (wanted.windows) {
      // Asked for before allocating: an old library cannot even do that.
      if (!nccl().has_windows())
        throw error("NCCL " + nccl_version() + " has no symmetric windows");
      memory_ = std::make_unique<nccl_memory>(static_cast<size_t>(2 * half));
      base = memory_->data();
      window_ = communicator_->open_window(base, static_cast<size_t>(2 * half));
    } else {
      plain_.reserve("messages", dtype::u8, {2 * half});
      plain_.seal();
      base = plain_.base();
    }
    input = make_view(base, wanted.type, wanted.elements);
    output = make_view(base + half, wanted.type, wanted.elements);
  }
  ~message_memory() {
    if (window_ == nullptr) return;
    try {
      communicator_->close_window(window_);
    } catch (const error&) {
      // A communicator that is broken closes its windows with itself.
    }
  }
  message_memory(const message_memory&) = delete;
  message_memory& operator=(const message_memory&) = delete;

  tensor_view input, output;

 private:
  std::shared_ptr<nccl_communicator> communicator_;
  arena plain_;
  std::unique_ptr<nccl_memory> memory_;
  ncclWindow_t window_ = nullptr;
};

class captured_rounds final : public repeated_run {
 public:
  captured_rounds(std::shared_ptr<nccl_communicator> communicator, const nccl_rounds& wanted)
      : communicator_(communicator), work_(false), messages_(communicator, wanted) {
    fill_random(messages_.input, work_.get());
    communicator->all_reduce(messages_.output, messages_.input, work_.get());
    communicator->wait(work_.get());
    // Calls of a non-blocking communicator launch from a thread of the library's.
    check(cudaStreamBeginCapture(work_.get(), cudaStreamCaptureModeRelaxed),
          "cudaStreamBeginCapture");
    cudaGraph_t graph = nullptr;
    try {
      for (int32_t round = 0; round < wanted.rounds; ++round)
        communicator->all_reduce(messages_.output, messages_.input, work_.get());
    } catch (...) {
      cudaStreamEndCapture(work_.get(), &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    check(cudaStreamEndCapture(work_.get(), &graph), "cudaStreamEndCapture");
    const cudaError_t status = cudaGraphInstantiate(&instance_, graph, 0);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    check(cudaGraphUpload(instance_, work_.get()), "cudaGraphUpload");
  }
  ~captured_rounds() override { cudaGraphExecDestroy(instance_); }

  void run() override {
    check(cudaGraphLaunch(instance_, work_.get()), "cudaGraphLaunch");
    communicator_->wait(work_.get());
  }

 private:
  std::shared_ptr<nccl_communicator> communicator_;
  stream work_;
  message_memory messages_;
  cudaGraphExec_t instance_ = nullptr;
};

}  // namespace
}  // namespace cuda

std::unique_ptr<repeated_run> capture_nccl_rounds(
    std::shared_ptr<cuda::nccl_communicator> communicator, const nccl_rounds& wanted) {
  return std::make_unique<cuda::captured_rounds>(std::move(communicator), wanted);
}

}  // namespace troupe::gpu
