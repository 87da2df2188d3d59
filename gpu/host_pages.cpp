#include "gpu/error.hpp"
#include "gpu/pages.hpp"

#include "config/ensure.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

namespace troupe::gpu {
namespace {

std::string reason() {
  return std::strerror(errno);
}

int make_shared_file(const std::string& name, int64_t bytes) {
  const int file = memfd_create(name.c_str(), MFD_CLOEXEC);
  if (file < 0) throw error(fmt::format("arena {}: memfd_create failed: {}", name, reason()));
  if (ftruncate(file, bytes) != 0) {
    const std::string why = reason();
    close(file);
    throw error(fmt::format("arena {}: cannot size its file to {} bytes: {}", name, bytes, why));
  }
  return file;
}

int duplicate_shared_file(const std::string& name, int64_t bytes, int file_descriptor) {
  struct stat found {};
  if (fstat(file_descriptor, &found) != 0)
    throw error(
        fmt::format("arena {}: descriptor {} is not usable: {}", name, file_descriptor, reason()));
  if (found.st_size != bytes)
    throw error(
        fmt::format("arena {}: its file has {} bytes, expected {}", name, found.st_size, bytes));
  const int file = fcntl(file_descriptor, F_DUPFD_CLOEXEC, 3);
  if (file < 0) throw error(fmt::format("arena {}: cannot duplicate its file: {}", name, reason()));
  return file;
}

void* map_shared(int64_t bytes, int file) {
  return mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
              MAP_SHARED | MAP_POPULATE, file, 0);
}

/// The same in place of what lies at `address`. On failure that may be gone.
bool map_shared_at(std::byte* address, int64_t bytes, int file) {
  return mmap(address, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
              MAP_SHARED | MAP_POPULATE | MAP_FIXED, file, 0) != MAP_FAILED;
}

/// Pages that fault, so that nothing else is ever mapped at an address that is still known.
bool reserve_at(std::byte* address, int64_t bytes) {
  return mmap(address, static_cast<size_t>(bytes), PROT_NONE,
              MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) != MAP_FAILED;
}

/// Private pages, huge ones where the kernel has them: what streams through gigabytes of weights
/// would otherwise wait for page tables half of the time.
void* map_private(int64_t bytes) {
  constexpr size_t huge_page = size_t{2} << 20;
  const auto size = static_cast<size_t>(bytes);
  const size_t slack = size < huge_page ? 0 : huge_page;
  void* mapped =
      mmap(nullptr, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return mapped;
  auto* first = static_cast<std::byte*>(mapped);
  const size_t before =
      slack == 0 ? 0 : (huge_page - reinterpret_cast<size_t>(first) % huge_page) % huge_page;
  if (before > 0) munmap(first, before);
  if (slack > before) munmap(first + before + size, slack - before);
  first += before;
  if (slack > 0)
    madvise(first, size, MADV_HUGEPAGE);  // advice: without huge pages there are small ones
  if (madvise(first, size, MADV_POPULATE_WRITE) != 0)  // before Linux 5.14: touch them one by one
    for (size_t i = 0; i < size; i += 4096)
      *const_cast<volatile std::byte*>(first + i) = std::byte{0};
  return first;
}

class host_pages final : public pages {
 public:
  /// Takes `file` (-1: private pages) along.
  host_pages(const std::string& name, int64_t bytes, int file) : bytes_(bytes), file_(file) {
    void* mapped = file < 0 ? map_private(bytes) : map_shared(bytes, file);
    if (mapped == MAP_FAILED) {
      const std::string why = reason();
      close_file();
      throw error(fmt::format("arena {}: cannot map {} bytes: {}", name, bytes, why));
    }
    base_ = static_cast<std::byte*>(mapped);
  }
  host_pages(const host_pages&) = delete;
  host_pages& operator=(const host_pages&) = delete;
  ~host_pages() override {
    munmap(base_, static_cast<size_t>(bytes_));
    close_file();
  }

  void clear() override { std::memset(base_, 0, static_cast<size_t>(bytes_)); }
  void forbid() override {
    config::ensure(mprotect(base_, static_cast<size_t>(bytes_), PROT_NONE) == 0,
                   "mprotect of {} bytes failed: {}", bytes_, reason());
  }
  void replace(const std::string& name, int shared_file) override {
    const int file = duplicate_shared_file(name, bytes_, shared_file);
    close_file();
    file_ = file;
    if (map_shared_at(base_, bytes_, file)) return;
    const std::string why = reason();
    config::ensure(reserve_at(base_, bytes_), "the address of arena {} is lost: {}", name,
                   reason());
    throw error(
        fmt::format("arena {}: cannot map {} other bytes at its address: {}", name, bytes_, why));
  }
  int file_descriptor() const override { return file_; }

 private:
  void close_file() const {
    if (file_ >= 0) close(file_);
  }

  int64_t bytes_;
  int file_;
};

}  // namespace

std::unique_ptr<pages> map_host_pages(const std::string& name, int64_t bytes, memory_kind kind,
                                      int shared_file) {
  int file = -1;
  if (shared_file >= 0)
    file = duplicate_shared_file(name, bytes, shared_file);
  else if (kind == memory_kind::host_shared)
    file = make_shared_file(name, bytes);
  return std::make_unique<host_pages>(name, bytes, file);
}

int64_t page_bytes_of(memory_kind kind) {
  constexpr int64_t host_page = 4096;
  constexpr int64_t device_page = int64_t{2} << 20;  // the granularity of CUDA's virtual memory
  return on_device(kind) ? device_page : host_page;
}

}  // namespace troupe::gpu
