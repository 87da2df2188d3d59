#include "model/weights/mapped_file.hpp"

#include "config/error.hpp"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

namespace troupe::model {

namespace {

std::string last_error() {
  return std::generic_category().message(errno);
}

config::error unreadable(const std::string& why) {
  return config::error(fmt::format("weights cannot be read from their file ({})", why));
}

}  // namespace

mapped_file::open_file::~open_file() {
  if (number >= 0) ::close(number);
}

mapped_file::mapped_file(const std::filesystem::path& path)
    : file_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
  struct stat status {};
  if (file_.number < 0 || ::fstat(file_.number, &status) != 0)
    throw config::error(fmt::format("{}: cannot be opened ({})", path.string(), last_error()));
  if (status.st_size == 0) throw config::error(fmt::format("{}: is empty", path.string()));
  bytes_ = status.st_size;
  void* address =
      ::mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ, MAP_SHARED, file_.number, 0);
  if (address == MAP_FAILED)
    throw config::error(fmt::format("{}: cannot be mapped ({})", path.string(), last_error()));
  data_ = static_cast<const std::byte*>(address);
}

mapped_file::mapped_file(mapped_file&& other) noexcept
    : file_(std::move(other.file_)),
      data_(std::exchange(other.data_, nullptr)),
      bytes_(std::exchange(other.bytes_, 0)) {}

mapped_file::~mapped_file() {
  if (data_) ::munmap(const_cast<std::byte*>(data_), static_cast<size_t>(bytes_));
}

void mapped_file::read(const std::byte* first, int64_t bytes, std::byte* target) const {
  int64_t offset = first - data_;
  while (bytes > 0) {
    const auto got = ::pread(file_.number, target, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw unreadable(last_error());
    if (got == 0) throw unreadable(fmt::format("it ends at byte {}, expected {}", offset, bytes_));
    offset += got;
    target += got;
    bytes -= got;
  }
}

void read_ahead(const std::byte* data, int64_t bytes) {
  if (bytes == 0) return;
  const auto page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(data) / page_bytes * page_bytes;
  const auto end = reinterpret_cast<uintptr_t>(data) + static_cast<uintptr_t>(bytes);
  auto* first_page = reinterpret_cast<void*>(begin);
  if (::madvise(first_page, end - begin, MADV_POPULATE_READ) == 0) return;
  // Kernels before 5.14 do not know the advice and read on demand.
  if (errno != EINVAL) throw unreadable(last_error());
  ::madvise(first_page, end - begin, MADV_WILLNEED);
}

}  // namespace troupe::model
