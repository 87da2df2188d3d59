#include "gpu/arena.hpp"

#include "config/ensure.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"
#include "gpu/pages.hpp"

#include <algorithm>
#include <atomic>
#include <utility>

namespace troupe::gpu {
namespace {

/// On the host a cache line, and the widest vector register; on a device what its copy engines and
/// libraries are fastest with.
constexpr int64_t alignment_of(memory_kind kind) { return on_device(kind) ? 256 : 64; }
constexpr int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

uint64_t next_generation() {
  static std::atomic<uint64_t> last{0};
  return last.fetch_add(1) + 1;
}

std::unique_ptr<pages> map_pages(const std::string& name, int64_t bytes, memory_kind kind,
                                 int shared_file) {
  return on_device(kind) ? map_device_pages(name, bytes, kind, shared_file)
                         : map_host_pages(name, bytes, kind, shared_file);
}

}  // namespace

/// The mapping, shared by the arena and all leases: the pages go when the last of them goes.
struct arena_lease::state {
  std::string name;
  uint64_t generation = 0;
  std::unique_ptr<pages> memory;
  int64_t bytes = 0;
  std::atomic<bool> current{true};
};

uint64_t arena_lease::generation() const { return state_->generation; }
const std::string& arena_lease::name() const { return state_->name; }
bool arena_lease::current() const { return state_->current.load(std::memory_order_acquire); }

bool arena_lease::contains(const void* address, int64_t bytes) const {
  const auto* first = static_cast<const std::byte*>(address);
  const std::byte* base = state_->memory->base();
  return first >= base && first + bytes <= base + state_->bytes;
}

int64_t arena_lease::offset_of(const void* address) const {
  return static_cast<const std::byte*>(address) - state_->memory->base();
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
  std::shared_ptr<arena_lease::state> sealed;

  int64_t mapped_bytes() const {
    return round_up(std::max<int64_t>(bytes, 1), page_bytes_of(kind));
  }

  void seal(int shared_file) {
    config::ensure(!sealed, "arena {} is sealed twice", name);
    auto state = std::make_shared<arena_lease::state>();
    state->name = name;
    state->generation = next_generation();
    state->bytes = mapped_bytes();
    state->memory = map_pages(name, state->bytes, kind, shared_file);
    sealed = std::move(state);
    count_arena_allocation();
  }
};

arena::arena(std::string name, memory_kind kind) : layout_(std::make_unique<layout>()) {
  layout_->name = std::move(name);
  layout_->kind = kind;
}
arena::~arena() = default;
arena::arena(arena&&) noexcept = default;
arena& arena::operator=(arena&&) noexcept = default;

int32_t arena::reserve(std::string owner, dtype type, std::initializer_list<int64_t> shape) {
  config::ensure(!layout_->sealed, "arena {} is sealed, {} comes too late", layout_->name, owner);
  config::ensure(shape.size() >= 1 && shape.size() <= 4, "{} reserves {} dimensions, expected 1 to 4",
                 owner, shape.size());
  int64_t bytes = size_of(type);
  for (const int64_t extent : shape) {
    config::ensure(extent >= 0, "{} reserves a dimension of {}", owner, extent);
    if (__builtin_mul_overflow(bytes, extent, &bytes))
      throw error(fmt::format("arena {}: {} asks for more than 2^63 bytes", layout_->name, owner));
  }
  const int64_t offset = layout_->bytes;
  layout_->bytes = offset + round_up(bytes, alignment_of(layout_->kind));
  layout_->reservations.push_back({offset, type, shape});
  layout_->ledger.push_back({std::move(owner), offset, bytes});
  return static_cast<int32_t>(layout_->reservations.size()) - 1;
}

void arena::seal() { layout_->seal(-1); }

void arena::seal(int file_descriptor) {
  config::ensure(shareable(layout_->kind), "arena {} is not shared", layout_->name);
  if (file_descriptor < 0)
    throw error(fmt::format("arena {}: descriptor {} is not usable", layout_->name,
                            file_descriptor));
  layout_->seal(file_descriptor);
}

tensor_view arena::view(int32_t reservation) const {
  config::ensure(layout_->sealed != nullptr, "arena {} is not sealed yet", layout_->name);
  const auto& found = layout_->reservations.at(static_cast<size_t>(reservation));
  tensor_view view;
  view.data = layout_->sealed->memory->base() + found.offset_bytes;
  view.type = found.type;
  view.rank = static_cast<int32_t>(found.shape.size());
  for (size_t i = 0; i < found.shape.size(); ++i) view.shape[i] = found.shape[i];
  view.row_stride = view.width();
  return view;
}

arena_lease arena::lease() const {
  config::ensure(layout_->sealed != nullptr, "arena {} is not sealed yet", layout_->name);
  arena_lease lease;
  lease.state_ = layout_->sealed;
  return lease;
}

uint64_t arena::generation() const { return layout_->sealed ? layout_->sealed->generation : 0; }
int64_t arena::bytes() const { return layout_->mapped_bytes(); }
std::byte* arena::base() const { return layout_->sealed ? layout_->sealed->memory->base() : nullptr; }
int arena::file_descriptor() const { 
  return layout_->sealed ? layout_->sealed->memory->file_descriptor() : -1;
 }
const std::vector<ledger_entry>& arena::ledger() const { return layout_->ledger; }

void arena::replace(int file_descriptor) {
  config::ensure(layout_->sealed != nullptr, "arena {} is not sealed yet", layout_->name);
  config::ensure(shareable(layout_->kind), "arena {} is not shared", layout_->name);
  auto& sealed = *layout_->sealed;
  if (!sealed.current.load(std::memory_order_acquire))
    throw error(fmt::format("arena {}: generation {} is retired, no other memory can take its place",
                            layout_->name, sealed.generation));
  try {
    sealed.memory->replace(layout_->name, file_descriptor);
  } catch (...) {
    retire();
    throw;
  }
}

void arena::clear() {
  config::ensure(layout_->sealed != nullptr, "arena {} is not sealed yet", layout_->name);
  layout_->sealed->memory->clear();
}

void arena::retire(bool guard) {
  config::ensure(layout_->sealed != nullptr, "arena {} is not sealed yet", layout_->name);
  layout_->sealed->current.store(false, std::memory_order_release);
  if (guard) layout_->sealed->memory->forbid();
}

}  // namespace troupe::gpu
