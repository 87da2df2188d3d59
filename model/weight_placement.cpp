#include "model/weight_placement.hpp"

#include "config/ensure.hpp"
#include "gpu/bfloat16.hpp"

#include <algorithm>
#include <utility>

namespace troupe::model {
namespace {

/// target (dense) = round(source), element by element.
template <class To, class From>
void convert(std::byte* target, const gpu::tensor_view& source, To (*round)(From)) {
  const From* values = source.as<From>();
  std::transform(values, values + source.elements(), reinterpret_cast<To*>(target), round);
}

class converted_bytes final : public gpu::weight_bytes {
 public:
  explicit converted_bytes(int64_t bytes)
      : bytes_(std::make_unique_for_overwrite<std::byte[]>(static_cast<size_t>(bytes))) {}
  std::byte* data() const { return bytes_.get(); }

 private:
  std::unique_ptr<std::byte[]> bytes_;
};

}  // namespace

host_tensor in_dtype(const host_tensor& source, gpu::dtype type) {
  if (source.rank() == 0 || source.type() == type) return source;
  const auto loaded = source.load();
  const auto bytes = std::make_shared<converted_bytes>(loaded.view.elements() * gpu::size_of(type));
  if (source.type() == gpu::dtype::bf16 && type == gpu::dtype::f32)
    convert(bytes->data(), loaded.view, gpu::to_float);
  else if (source.type() == gpu::dtype::f32 && type == gpu::dtype::bf16)
    convert(bytes->data(), loaded.view, gpu::to_bfloat16);
  else
    config::ensure(false, "no conversion from dtype {} to {}", static_cast<int>(source.type()),
                   static_cast<int>(type));
  gpu::tensor_view view = source.view_at(bytes->data());
  view.type = type;
  return {view, bytes};
}

gpu::linear_weight prepare_linear(gpu::operations& backend, gpu::dtype activation,
                                  const std::string& name, const host_tensor& weight,
                                  const host_tensor& bias) {
  return backend.prepare_linear(name, in_dtype(weight, activation), in_dtype(bias, activation));
}

std::vector<gpu::linear_weight> prepare_linears(gpu::operations& backend, gpu::dtype activation,
                                                const std::string& name,
                                                const std::vector<host_tensor>& weights) {
  std::vector<host_tensor> as_used;
  for (const auto& weight : weights) as_used.push_back(in_dtype(weight, activation));
  return backend.prepare_linears(name, as_used);
}

resident_weights::resident_weights(std::string arena_name, gpu::memory_kind kind)
    : arena_(std::move(arena_name), kind) {}

void resident_weights::add(gpu::tensor_view& view, std::string owner, const host_tensor& source,
                           gpu::dtype type) {
  config::ensure(source.rank() > 0, "{} is missing", owner);
  const int32_t reservation =
      source.rank() == 1 ? arena_.reserve(std::move(owner), type, {source.width()})
                         : arena_.reserve(std::move(owner), type, {source.rows(), source.width()});
  pending_.push_back({&view, source, reservation});
}

gpu::arena resident_weights::seal(gpu::operations& backend) {
  arena_.seal();
  for (auto& [view, source, reservation] : pending_) {
    *view = arena_.view(reservation);
    backend.load(*view, in_dtype(source, view->type));
    source = {};  // frees what was loaded while the rest is placed
  }
  return std::move(arena_);
}

}  // namespace troupe::model
