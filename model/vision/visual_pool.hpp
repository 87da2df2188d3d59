#pragma once

#include "config/model_config.hpp"
#include "gpu/arena.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <memory>

namespace troupe::model {

/// The deepstack slot's memory on one node: [1 + num_deepstack_levels, rows, hidden] in shareable
/// memory of the host or of a device, so that encoder and shards, threads or processes, see one pool.
/// Fixed size; never resized.
class visual_pool {
 public:
  /// Makes the pool, on the calling thread's device if `kind` is a device kind. Throws gpu::error.
  visual_pool(const config::model_config& model, gpu::dtype activation, int32_t rows,
              gpu::memory_kind kind = gpu::memory_kind::host_shared);
  /// Maps a pool made by another process or thread (the descriptor is duplicated).
  static visual_pool map(const config::model_config& model, gpu::dtype activation, int32_t rows,
                         gpu::memory_kind kind, int file_descriptor);
  ~visual_pool();
  visual_pool(visual_pool&&) noexcept;

  gpu::tensor_view view() const;
  gpu::arena_lease lease() const;
  int file_descriptor() const;
  int32_t rows() const;
  /// Zeroes every row (the four-arm test). Nothing may use the pool meanwhile.
  void clear();

 private:
  struct state;
  explicit visual_pool(std::unique_ptr<state> made);
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
