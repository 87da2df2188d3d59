#pragma once

#include "gpu/arena.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

namespace troupe::gpu {

/// The memory under an arena: mapped, zeroed and touched when made, unmapped when destroyed.
class pages {
 public:
  virtual ~pages() = default;

  std::byte* base() const { return base_; }
  virtual void clear() = 0;
  /// Makes every later touch of the memory fault (tests of retired memory).
  virtual void forbid() = 0;
  /// Maps other memory of this size, which another arena of that name made, at the same address; shared
  /// kinds only. Throws gpu::error; the old memory may be gone by then, and the address forbidden.
  virtual void replace(const std::string& name, int shared_file) = 0;
  /// What another process maps it by; -1 for private memory. Owned here.
  virtual int file_descriptor() const { return -1; }

 protected:
  std::byte* base_ = nullptr;
};

/// Bytes that memory of this kind is mapped in.
int64_t page_bytes_of(memory_kind kind);

/// Maps `bytes` (whole pages) for arena `name`; `shared_file` >= 0: the memory that another arena made.
/// Throws gpu::error naming the arena, its bytes and the reason.
std::unique_ptr<pages> map_host_pages(const std::string& name, int64_t bytes, memory_kind kind,
                                      int shared_file);
/// The same on the calling thread's current CUDA device. In a build without CUDA it throws.
std::unique_ptr<pages> map_device_pages(const std::string& name, int64_t bytes, memory_kind kind,
                                        int shared_file);

}  // namespace troupe::gpu
