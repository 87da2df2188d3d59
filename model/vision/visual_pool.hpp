#pragma once

#include "config/model_config.hpp"
#include "gpu/arena.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <memory>

namespace troupe::model {

/// The deepstack slot's memory on one node: [1 + num_deepstack_levels, rows, hidden] in an
/// anonymous shared file, so that encoder and shards, threads or processes, see one pool. Fixed
/// size; never resized.
class visual_pool {
 public:
  /// Makes the pool. Throws gpu::error.
  visual_pool(const config::model_config& model, gpu::dtype activation, int32_t rows);
  /// Maps a pool made by another process (the descriptor is duplicated).
  visual_pool(const config::model_config& model, gpu::dtype activation, int32_t rows,
              int file_descriptor);
  ~visual_pool();
  visual_pool(visual_pool&&) noexcept;

  gpu::tensor_view view() const;
  gpu::arena_lease lease() const;
  int file_descriptor() const;
  int32_t rows() const;
  /// Zeroes every row (the four-arm test).
  void clear();

 private:
  struct state;
  std::unique_ptr<state> state_;
};

}  // namespace troupe::model
