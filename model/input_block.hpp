#pragma once

#include "gpu/operations.hpp"

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace troupe::model {

/// What differs between two runs of a graph, as one contiguous block: filled on the host, sent by
/// one copy to the fixed addresses that graphs baked in.
///
///   staging   | counts | ids | positions | ... | block tables of live sequences | (rest)
///                 │                 one copy of the live prefix
///   arena     | counts | ids | positions | ... | block tables of live sequences | (rest)
class input_block {
 public:
  using field = int32_t;

  input_block(std::string arena_name, gpu::memory_kind kind)
      : arena_(std::move(arena_name), kind) {}

  /// Fields lie in the order of their reservation. A field whose live part varies most comes last.
  field reserve(std::string owner, gpu::dtype type, std::initializer_list<int64_t> shape) {
    return arena_.reserve(std::move(owner), type, shape);
  }
  /// `num_stagings`: how many runs' inputs may be under way at once.
  void seal(gpu::operations& backend, size_t num_stagings = 1) {
    arena_.seal();
    for (size_t i = 0; i < num_stagings; ++i)
      stagings_.push_back({backend.host_staging(arena_.bytes()), nullptr});
  }

  /// Before the next run's inputs are filled, if there are several stagings: turns to the one that was
  /// sent longest ago, and waits if it is still being sent.
  void turn(gpu::operations& backend) {
    current_ = (current_ + 1) % stagings_.size();
    auto& sent = stagings_[current_].sent;
    if (sent != nullptr && !sent->passed()) backend.synchronize();
    sent.reset();
  }

  gpu::tensor_view device(field index) const { return arena_.view(index); }
  template <class T>
  T* host(field index) {
    return reinterpret_cast<T*>(stagings_[current_].memory.get() + offset(index));
  }

  /// Sends everything up to and including the first `live_bytes` bytes of `last`.
  void send(gpu::operations& backend, field last, int64_t live_bytes) {
    const gpu::tensor_view start = gpu::make_view(arena_.base(), gpu::dtype::u8, arena_.bytes());
    auto& source = stagings_[current_];
    backend.upload(start, source.memory.get(), offset(last) + live_bytes);
    if (stagings_.size() > 1) source.sent = backend.mark();
  }

  const gpu::arena& arena() const { return arena_; }
  gpu::arena& arena() { return arena_; }

 private:
  int64_t offset(field index) const {
    return arena_.ledger()[static_cast<size_t>(index)].offset_bytes;
  }

  struct staging {
    std::shared_ptr<std::byte> memory;
    std::unique_ptr<gpu::milestone> sent;  // null: nothing is under way
  };

  gpu::arena arena_;
  std::vector<staging> stagings_;
  size_t current_ = 0;
};

}  // namespace troupe::model
