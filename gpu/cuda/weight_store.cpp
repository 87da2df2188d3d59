#include "gpu/cuda/weight_store.hpp"

#include "config/ensure.hpp"

#include <utility>

namespace troupe::gpu::cuda {
namespace {

// Weights of at least this size have an arena of their own: its rounding to whole pages is then
// small against it.
constexpr int64_t own_arena_bytes = int64_t{16} << 20;
constexpr int64_t slab_size = int64_t{16} << 20;
constexpr int64_t alignment_bytes = 256;

int64_t aligned(int64_t bytes) {
  return (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
}

arena make_arena(const std::string& owner, int64_t bytes) {
  arena made("linear_weights", memory_kind::device);
  made.reserve(owner, dtype::u8, {bytes});
  made.seal();
  return made;
}

}  // namespace

int32_t weight_store::add(const std::string& name, const host_matrix& weight,
                          const host_matrix& bias) {
  weights_.push_back(place(name, weight));
  biases_.push_back(bias.rank() == 0 ? tensor_view{} : place(name + ".bias", bias));
  return static_cast<int32_t>(weights_.size()) - 1;
}

std::vector<int32_t> weight_store::add_group(const std::string& name,
                                             const std::vector<host_matrix>& weights) {
  const int64_t bytes = weights.front().bytes();
  std::byte* place = take(name, bytes * static_cast<int64_t>(weights.size()));
  std::vector<int32_t> indices;
  for (const auto& source : weights) {
    config::ensure(
        source.rows() == weights.front().rows() && source.width() == weights.front().width(),
        "{}: weights of different shapes in one group", name);
    ring_.copy(place, source);
    indices.push_back(static_cast<int32_t>(weights_.size()));
    weights_.push_back(source.view_at(place));
    place += bytes;
    biases_.emplace_back();
  }
  return indices;
}

tensor_view weight_store::place(const std::string& name, const host_matrix& source) {
  const tensor_view target = source.view_at(take(name, source.bytes()));
  ring_.copy(target.data, source);
  return target;
}

std::byte* weight_store::take(const std::string& name, int64_t bytes) {
  if (bytes >= own_arena_bytes) {
    arenas_.push_back(make_arena(name, bytes));
    ledger_.push_back({"linear_weights/" + name, 0, arenas_.back().bytes()});
    return arenas_.back().base();
  }
  const int64_t taken = aligned(bytes);
  if (taken > slab_bytes_) {
    arenas_.push_back(make_arena("slab", slab_size));
    slab_ = arenas_.back().base();
    slab_bytes_ = slab_size;
  }
  ledger_.push_back({"linear_weights/" + name, slab_size - slab_bytes_, taken});
  std::byte* place = slab_;
  slab_ += taken;
  slab_bytes_ -= taken;
  return place;
}

std::vector<ledger_entry> weight_store::ledger() const {
  return ledger_;
}

}  // namespace troupe::gpu::cuda
