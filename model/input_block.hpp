#pragma once

#include "gpu/operations.hpp"

#include <cstddef>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>

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
  void seal(gpu::operations& backend) {
    arena_.seal();
    staging_ = backend.host_staging(arena_.bytes());
  }

  gpu::tensor_view device(field index) const { return arena_.view(index); }
  template <class T>
  T* host(field index) {
    return reinterpret_cast<T*>(staging_.get() + offset(index));
  }

  /// Sends everything up to and including the first `live_bytes` bytes of `last`.
  void send(gpu::operations& backend, field last, int64_t live_bytes) {
    const gpu::tensor_view start = gpu::make_view(arena_.base(), gpu::dtype::u8, arena_.bytes());
    backend.upload(start, staging_.get(), offset(last) + live_bytes);
  }

  const gpu::arena& arena() const { return arena_; }
  gpu::arena& arena() { return arena_; }

 private:
  int64_t offset(field index) const {
    return arena_.ledger()[static_cast<size_t>(index)].offset_bytes;
  }

  gpu::arena arena_;
  std::shared_ptr<std::byte> staging_;
};

}  // namespace troupe::model
