#include "gpu/arena.hpp"

#include "config/ensure.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

namespace troupe::gpu {
namespace {

// A cache line, and the widest vector register.
constexpr int64_t alignment_bytes = 64;
constexpr int64_t page_bytes = 4096;

constexpr int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

std::string reason() { return std::strerror(errno); }

uint64_t next_generation() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1) + 1;
}

std::byte* map_pages(const std::string& name, int64_t bytes, int file_descriptor) {
  const int sharing = file_descriptor < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  void* pages = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE,
                     sharing | MAP_POPULATE, file_descriptor, 0);
  if (pages == MAP_FAILED)
    throw error(fmt::format("arena {}: cannot map {} bytes: {}", name, bytes, reason()));
  return static_cast<std::byte*>(pages);
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
    throw error(fmt::format("arena {}: descriptor {} is not usable: {}", name, file_descriptor,
                            reason()));
  if (found.st_size != bytes)
    throw error(fmt::format("arena {}: its file has {} bytes, expected {}", name, found.st_size,
                            bytes));
  const int file = fcntl(file_descriptor, F_DUPFD_CLOEXEC, 3);
  if (file < 0) throw error(fmt::format("arena {}: cannot duplicate its file: {}", name, reason()));
  return file;
}

}  // namespace

/// The mapping, shared by the arena and all leases: the pages go when the last of them goes.
struct arena_lease::state {
  std::string name;
  uint64_t generation = 0;
  std::byte* base = nullptr;
  int64_t bytes = 0;
  std::atomic<bool> current{true};

  ~state() {
    if (base != nullptr) munmap(base, static_cast<size_t>(bytes));
  }
};

uint64_t arena_lease::generation() const { return state_->generation; }
const std::string& arena_lease::name() const { return state_->name; }
bool arena_lease::current() const { return state_->current.load(std::memory_order_acquire); }

bool arena_lease::contains(const void* address, int64_t bytes) const {
  const auto* first = static_cast<const std::byte*>(address);
  return first >= state_->base && first + bytes <= state_->base + state_->bytes;
}

int64_t arena_lease::offset_of(const void* address) const {
  return static_cast<const std::byte*>(address) - state_->base;
}

struct arena::layout {
  struct reservation {
    int64_t offset_bytes;
    dtype type;
    std::vector<int64_t> shape;
  };

  std::string name;
  memory_kind kind;
  std::vector<reservation> reservations;
  std::vector<ledger_entry> ledger;
  int64_t bytes = 0;
  int file = -1;
  std::shared_ptr<arena_lease::state> pages;

  ~layout() {
    if (file >= 0) close(file);
  }

  int64_t mapped_bytes() const { return round_up(std::max<int64_t>(bytes, 1), page_bytes); }

  void seal(int shared_file) {
    config::ensure(!pages, "arena {} is sealed twice", name);
    file = shared_file;
    auto state = std::make_shared<arena_lease::state>();
    state->name = name;
    state->generation = next_generation();
    state->bytes = mapped_bytes();
    state->base = map_pages(name, state->bytes, file);
    pages = std::move(state);
    count_arena_allocation();
  }
};

arena::arena(std::string name, memory_kind kind) : layout_(std::make_unique<layout>()) {
  layout_->name = std::move(name);
  layout_->kind = kind;
  if (kind == memory_kind::device)
    throw error(fmt::format("arena {}: device memory needs a build with CUDA", layout_->name));
}
arena::~arena() = default;
arena::arena(arena&&) noexcept = default;
arena& arena::operator=(arena&&) noexcept = default;

int32_t arena::reserve(std::string owner, dtype type, std::initializer_list<int64_t> shape) {
  config::ensure(!layout_->pages, "arena {} is sealed, {} comes too late", layout_->name, owner);
  config::ensure(shape.size() >= 1 && shape.size() <= 4, "{} reserves {} dimensions, expected 1 to 4",
                 owner, shape.size());
  int64_t bytes = size_of(type);
  for (const int64_t extent : shape) {
    config::ensure(extent >= 0, "{} reserves a dimension of {}", owner, extent);
    if (__builtin_mul_overflow(bytes, extent, &bytes))
      throw error(fmt::format("arena {}: {} asks for more than 2^63 bytes", layout_->name, owner));
  }
  const int64_t offset = layout_->bytes;
  layout_->bytes = offset + round_up(bytes, alignment_bytes);
  layout_->reservations.push_back({offset, type, shape});
  layout_->ledger.push_back({std::move(owner), offset, bytes});
  return static_cast<int32_t>(layout_->reservations.size()) - 1;
}

void arena::seal() {
  const bool shared = layout_->kind == memory_kind::host_shared;
  layout_->seal(shared ? make_shared_file(layout_->name, layout_->mapped_bytes()) : -1);
}

void arena::seal(int file_descriptor) {
  config::ensure(layout_->kind == memory_kind::host_shared, "arena {} is not shared", layout_->name);
  layout_->seal(
      duplicate_shared_file(layout_->name, layout_->mapped_bytes(), file_descriptor));
}

tensor_view arena::view(int32_t reservation) const {
  config::ensure(layout_->pages != nullptr, "arena {} is not sealed yet", layout_->name);
  const auto& found = layout_->reservations.at(static_cast<size_t>(reservation));
  tensor_view view;
  view.data = layout_->pages->base + found.offset_bytes;
  view.type = found.type;
  view.rank = static_cast<int32_t>(found.shape.size());
  for (size_t i = 0; i < found.shape.size(); ++i) view.shape[i] = found.shape[i];
  view.row_stride = view.width();
  return view;
}

arena_lease arena::lease() const {
  config::ensure(layout_->pages != nullptr, "arena {} is not sealed yet", layout_->name);
  arena_lease lease;
  lease.state_ = layout_->pages;
  return lease;
}

uint64_t arena::generation() const { return layout_->pages ? layout_->pages->generation : 0; }
int64_t arena::bytes() const { return layout_->mapped_bytes(); }
std::byte* arena::base() const { return layout_->pages ? layout_->pages->base : nullptr; }
int arena::file_descriptor() const { return layout_->file; }
const std::vector<ledger_entry>& arena::ledger() const { return layout_->ledger; }

void arena::retire(bool guard) {
  config::ensure(layout_->pages != nullptr, "arena {} is not sealed yet", layout_->name);
  layout_->pages->current.store(false, std::memory_order_release);
  if (guard)
    config::ensure(mprotect(layout_->pages->base, static_cast<size_t>(layout_->pages->bytes),
                            PROT_NONE) == 0,
                   "arena {}: mprotect failed: {}", layout_->name, reason());
}

}  // namespace troupe::gpu
