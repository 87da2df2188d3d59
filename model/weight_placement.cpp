#include "model/weight_placement.hpp"

#include "config/ensure.hpp"
#include "gpu/bfloat16.hpp"

#include <algorithm>
#include <utility>

namespace troupe::model {
namespace {

/// target (dense) = round(source), element by element.
template <class To, class From>
void convert_rows(const gpu::tensor_view& target, const gpu::tensor_view& source,
                  To (*round)(From)) {
  for (int64_t i = 0; i < source.rows(); ++i) {
    const From* row = source.as<From>() + i * source.row_stride;
    std::transform(row, row + source.width(), target.as<To>() + i * target.width(), round);
  }
}

}  // namespace

host_tensor in_dtype(const host_tensor& source, gpu::dtype type) {
  if (source.view.type == type) return source;
  const auto bytes = static_cast<size_t>(source.view.elements() * gpu::size_of(type));
  auto storage = std::make_shared_for_overwrite<std::byte[]>(bytes);
  host_tensor converted{source.view, storage};
  converted.view.data = storage.get();
  converted.view.type = type;
  converted.view.row_stride = source.view.width();
  if (source.view.type == gpu::dtype::bf16 && type == gpu::dtype::f32)
    convert_rows(converted.view, source.view, gpu::to_float);
  else if (source.view.type == gpu::dtype::f32 && type == gpu::dtype::bf16)
    convert_rows(converted.view, source.view, gpu::to_bfloat16);
  else
    config::ensure(false, "no conversion from dtype {} to {}", static_cast<int>(source.view.type),
                   static_cast<int>(type));
  return converted;
}

gpu::linear_weight prepare_linear(gpu::operations& backend, gpu::dtype activation,
                                  const std::string& name, const host_tensor& weight,
                                  const host_tensor& bias) {
  const host_tensor weight_as_used = in_dtype(weight, activation);
  const host_tensor bias_as_used = bias.view.rank == 0 ? bias : in_dtype(bias, activation);
  return backend.prepare_linear(name, weight_as_used.view, bias_as_used.view);
}

std::vector<gpu::linear_weight> prepare_linears(gpu::operations& backend, gpu::dtype activation,
                                                const std::string& name,
                                                const std::vector<host_tensor>& weights) {
  std::vector<host_tensor> as_used;
  std::vector<gpu::tensor_view> views;
  for (const auto& weight : weights) {
    as_used.push_back(in_dtype(weight, activation));
    views.push_back(as_used.back().view);
  }
  return backend.prepare_linears(name, views);
}

resident_weights::resident_weights(std::string arena_name, gpu::memory_kind kind)
    : arena_(std::move(arena_name), kind) {}

void resident_weights::add(gpu::tensor_view& view, std::string owner, const host_tensor& source,
                           gpu::dtype type) {
  const auto& shape = source.view.shape;
  config::ensure(source.view.rank == 1 || source.view.rank == 2,
                 "{} has {} dimensions, expected 1 or 2", owner, source.view.rank);
  const int32_t reservation = source.view.rank == 1
                                  ? arena_.reserve(std::move(owner), type, {shape[0]})
                                  : arena_.reserve(std::move(owner), type, {shape[0], shape[1]});
  pending_.push_back({&view, source, reservation});
}

gpu::arena resident_weights::seal(gpu::operations& backend) {
  arena_.seal();
  for (auto& [view, source, reservation] : pending_) {
    *view = arena_.view(reservation);
    host_tensor converted = in_dtype(source, view->type);
    config::ensure(converted.view.contiguous(), "resident weights have gaps between their rows");
    backend.upload(*view, converted.view.data, converted.view.span_bytes());
    source = {};  // frees what was loaded while the rest is placed
  }
  backend.synchronize();
  return std::move(arena_);
}

}  // namespace troupe::model
