#pragma once

#include "gpu/tensor_view.hpp"

#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

/// NCCL: all-reduces of messages too large for lanes, or between nodes. An optional library, found
/// at run time. NVLink multicast stays off.
namespace troupe::gpu {

namespace cuda {
class nccl_communicator;
}

/// The NCCL library that this process found, as "2.28.9". Empty: there is none, or this build was
/// made without its header.
std::string nccl_version();

/// What the ranks of one communicator find each other by: made once, given to all of them.
using nccl_id = std::array<char, 128>;

/// Throws gpu::error.
nccl_id make_nccl_id();

struct nccl_membership {
  nccl_id id{};
  int32_t rank = 0;
  int32_t size = 1;
  std::chrono::milliseconds timeout{0};  // of every wait for another rank
};

/// Joins the communicator on the calling thread's current CUDA device, which no other rank of it
/// may use; returns when all ranks did. Throws gpu::error.
std::shared_ptr<cuda::nccl_communicator> join_nccl(const nccl_membership& membership);

/// Work that is captured and ready, done as often as it is asked for.
class repeated_run {
 public:
  virtual ~repeated_run() = default;
  /// Runs it once and waits for its end. Throws gpu::error.
  virtual void run() = 0;
};

struct nccl_rounds {
  int32_t rounds = 1;
  int64_t elements = 0;
  dtype type = dtype::f32;  // or bf16
  bool windows = false;     // from and to symmetric windows
};

/// A graph of all-reduces, one after another: for measurements. All ranks make it at once. Throws
/// gpu::error, also where the library has no symmetric windows, or gives none between these
/// devices.
std::unique_ptr<repeated_run> capture_nccl_rounds(
    std::shared_ptr<cuda::nccl_communicator> communicator, const nccl_rounds& wanted);

}  // namespace troupe::gpu
