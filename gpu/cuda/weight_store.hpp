#pragma once

#include "gpu/arena.hpp"
#include "gpu/cuda/upload_ring.hpp"
#include "gpu/host_matrix.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace troupe::gpu::cuda {

/// Weights of `linear` on the device, in their checkpoint orientation. Large ones have an arena of
/// their own, small ones share slabs.
class weight_store {
 public:
  /// Makes room for a matrix (and its bias, unless of rank 0) and begins to load it; returns its
  /// index.
  int32_t add(const std::string& name, const host_matrix& weight, const host_matrix& bias);

  /// The same for matrices of one shape, side by side.
  std::vector<int32_t> add_group(const std::string& name, const std::vector<host_matrix>& weights);
  /// Begins to load a weight to memory that is not the store's.
  void load(const tensor_view& destination, const host_matrix& source) {
    ring_.copy(destination.data, source);
  }
  /// Waits until everything is on the device. Throws what loading threw.
  void synchronize() { ring_.synchronize(); }

  const tensor_view& weight(int32_t index) const { return weights_[static_cast<size_t>(index)]; }
  const tensor_view& bias(int32_t index) const { return biases_[static_cast<size_t>(index)]; }

  const std::vector<arena>& arenas() const { return arenas_; }
  /// One line per weight, with what each slab has left.
  std::vector<ledger_entry> ledger() const;

 private:
  tensor_view place(const std::string& name, const host_matrix& source);
  std::byte* take(const std::string& name, int64_t bytes);

  upload_ring ring_;
  std::vector<arena> arenas_;
  std::vector<tensor_view> weights_, biases_;
  std::vector<ledger_entry> ledger_;
  std::byte* slab_ = nullptr;  // free part of the newest slab
  int64_t slab_bytes_ = 0;
};

}  // namespace troupe::gpu::cuda
