#include "gpu/graph.hpp"

#include "config/ensure.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"

#include <xxhash.h>

#include <algorithm>
#include <utility>

namespace troupe::gpu {
namespace {

const arena_lease* owner_of(const std::vector<arena_lease>& arenas, const std::byte* address,
                            int64_t bytes) {
  const auto found = std::find_if(arenas.begin(), arenas.end(), [&](const arena_lease& lease) {
    return lease.contains(address, bytes);
  });
  return found == arenas.end() ? nullptr : &*found;
}

/// Collects what a digest covers; strings carry their length, so that fields cannot run together.
class hasher {
 public:
  void add(const std::string& text) {
    add(static_cast<uint64_t>(text.size()));
    bytes_ += text;
  }
  void add(uint64_t number) {
    bytes_.append(reinterpret_cast<const char*>(&number), sizeof number);
  }
  digest128 finish() const {
    const XXH128_hash_t hash = XXH3_128bits(bytes_.data(), bytes_.size());
    return {hash.low64, hash.high64};
  }

 private:
  std::string bytes_;
};

/// Hashes all operations; `place` says how an operand's address enters.
template <class Place>
digest128 digest_of(const std::vector<baked_operation>& operations, Place place) {
  hasher hash;
  for (const auto& operation : operations) {
    hash.add(operation.name);
    hash.add(operation.parameters);
    for (const auto& operand : operation.operands) {
      place(hash, operand);
      hash.add(static_cast<uint64_t>(operand.bytes));
      hash.add(static_cast<uint64_t>(operand.type));
      hash.add(static_cast<uint64_t>(operand.access));
    }
  }
  return hash.finish();
}

/// Whether an operand of another access than `except` overlaps `view`.
bool touched(const std::vector<baked_operation>& operations, const tensor_view& view,
             access_kind except) {
  const std::byte* end = view.data + view.span_bytes();
  for (const auto& operation : operations)
    for (const auto& operand : operation.operands)
      if (operand.access != except && operand.address < end &&
          operand.address + operand.bytes > view.data)
        return true;
  return false;
}

}  // namespace

manifest::manifest(std::vector<arena_lease> arenas) : arenas_(std::move(arenas)) {}

void manifest::append(baked_operation operation) {
  for (const auto& operand : operation.operands)
    if (operand.bytes > 0 && owner_of(arenas_, operand.address, operand.bytes) == nullptr)
      throw error(fmt::format("{} bakes {} bytes at {} that lie in none of the graph's {} arenas",
                              operation.name, operand.bytes, fmt::ptr(operand.address),
                              arenas_.size()));
  operations_.push_back(std::move(operation));
}

digest128 manifest::digest() const {
  return digest_of(operations_, [&](hasher& hash, const baked_operand& operand) {
    hash.add(reinterpret_cast<uint64_t>(operand.address));
    const arena_lease* owner = owner_of(arenas_, operand.address, operand.bytes);
    hash.add(owner != nullptr ? owner->generation() : 0);
  });
}

digest128 manifest::shape_digest() const {
  return digest_of(operations_, [&](hasher& hash, const baked_operand& operand) {
    const arena_lease* owner = owner_of(arenas_, operand.address, operand.bytes);
    if (owner == nullptr) return;  // an empty operand
    hash.add(owner->name());
    hash.add(static_cast<uint64_t>(owner->offset_of(operand.address)));
  });
}

bool manifest::reads(const tensor_view& view) const {
  return touched(operations_, view, access_kind::write);
}

bool manifest::writes(const tensor_view& view) const {
  return touched(operations_, view, access_kind::read);
}

bool manifest::current() const {
  return std::all_of(arenas_.begin(), arenas_.end(),
                     [](const arena_lease& lease) { return lease.current(); });
}

captured_graph::captured_graph(std::string name, manifest baked,
                               std::unique_ptr<executable> program)
    : name_(std::move(name)),
      baked_(std::move(baked)),
      captured_digest_(baked_.digest()),
      program_(std::move(program)) {
  count_capture();
}

void captured_graph::replay() {
  if (!baked_.current()) [[unlikely]] {
    count_refused_replay();
    for (const auto& lease : baked_.arenas())
      if (!lease.current())
        throw stale_graph(fmt::format("graph {} baked generation {} of arena {}, which was retired",
                                      name_, lease.generation(), lease.name()));
  }
  count_replay();
  program_->launch();
}

bool captured_graph::intact() const {
  return baked_.digest() == captured_digest_;
}

}  // namespace troupe::gpu
