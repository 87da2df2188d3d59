#include "gpu/cuda/driver.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/cuda/stream.hpp"
#include "gpu/pages.hpp"

#include <fmt/format.h>

#include <unistd.h>

#include <utility>

namespace troupe::gpu {
namespace {

using cuda::check;
using cuda::driver;

CUmemAllocationProp properties_on(int device, memory_kind kind) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  if (shareable(kind)) properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  return properties;
}

/// Out of the way of captures: a stream of its own that synchronises with no other.
void zero(void* address, int64_t bytes) {
  const cuda::stream apart(/*background=*/false);
  check(cudaMemsetAsync(address, 0, static_cast<size_t>(bytes), apart.get()), "zeroing an arena");
  check(cudaStreamSynchronize(apart.get()), "zeroing an arena");
}

/// Physical memory of one device behind an address range. Each step is undone by the destructor, so
/// that a failure in the constructor leaves nothing behind (it destroys a complete member).
class mapping {
 public:
  explicit mapping(size_t bytes) : bytes_(bytes) {}
  mapping(const mapping&) = delete;
  mapping& operator=(const mapping&) = delete;
  ~mapping() {
    unmap();
    if (address_ != 0) driver().address_free(address_, bytes_);
    if (memory_ != 0) driver().release(memory_);
    if (file_ >= 0) close(file_);
  }

  void create(int device, memory_kind kind) {
    const CUmemAllocationProp properties = properties_on(device, kind);
    check(driver().create(&memory_, bytes_, &properties, 0), "cuMemCreate");
    if (shareable(kind))
      check(driver().export_handle(&file_, memory_, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
            "cuMemExportToShareableHandle");
  }
  void import(int file) {
    file_ = dup(file);
    check(driver().import_handle(&memory_, reinterpret_cast<void*>(static_cast<intptr_t>(file)),
                                 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
          "cuMemImportFromShareableHandle");
  }
  std::byte* map(int device) {
    check(driver().address_reserve(&address_, bytes_, 0, 0, 0), "cuMemAddressReserve");
    map_at_address(device);
    return reinterpret_cast<std::byte*>(address_);
  }
  /// Other memory at the same address, which stays reserved. If that fails, nothing is mapped there.
  void replace(int file, int device) {
    mapping other(bytes_);  // takes what was here along
    other.import(file);
    unmap();
    std::swap(memory_, other.memory_);
    std::swap(file_, other.file_);
    map_at_address(device);
  }
  void unmap() {
    if (mapped_) driver().unmap(address_, bytes_);
    mapped_ = false;
  }
  int file() const { return file_; }

 private:
  void map_at_address(int device) {
    check(driver().map(address_, bytes_, 0, memory_, 0), "cuMemMap");
    mapped_ = true;
    CUmemAccessDesc access{};
    access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    access.location.id = device;
    access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
    check(driver().set_access(address_, bytes_, &access, 1), "cuMemSetAccess");
  }

  size_t bytes_;
  CUmemGenericAllocationHandle memory_ = 0;
  CUdeviceptr address_ = 0;
  bool mapped_ = false;
  int file_ = -1;
};

/// The address range stays reserved until the pages are destroyed: nothing else can be mapped where a
/// stale graph might still write.
class device_pages final : public pages {
 public:
  device_pages(int64_t bytes, memory_kind kind, int shared_file)
      : bytes_(bytes), mapping_(static_cast<size_t>(bytes)) {
    check(cudaGetDevice(&device_), "cudaGetDevice");
    check(cudaFree(nullptr), "initialising CUDA");
    if (shared_file >= 0)
      mapping_.import(shared_file);
    else
      mapping_.create(device_, kind);
    base_ = mapping_.map(device_);
    if (shared_file < 0) clear();
  }

  void clear() override { zero(base_, bytes_); }

  void forbid() override { mapping_.unmap(); }
  void replace(const std::string& name, int shared_file) override {
    try {
      mapping_.replace(shared_file, device_);
    } catch (const device_lost&) {
      throw;
    } catch (const error& failure) {
      throw error(fmt::format("arena {}: cannot map {} other bytes at its address: {}", name, bytes_,
                              failure.what()));
    }
  }
  int file_descriptor() const override { return mapping_.file(); }

 private:
  int64_t bytes_;
  int device_ = 0;
  mapping mapping_;
};

}  // namespace

std::unique_ptr<pages> map_device_pages(const std::string& name, int64_t bytes, memory_kind kind,
                                        int shared_file) {
  try {
    return std::make_unique<device_pages>(bytes, kind, shared_file);
  } catch (const device_lost&) {
    throw;
  } catch (const error& failure) {
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    throw error(fmt::format("arena {}: cannot map {} bytes on the device ({} of {} bytes are free): {}",
                            name, bytes, free_bytes, total_bytes, failure.what()));
  }
}

}  // namespace troupe::gpu
