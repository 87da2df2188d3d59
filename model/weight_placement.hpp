#pragma once

#include "gpu/operations.hpp"
#include "model/weights/model_weights.hpp"

#include <string>
#include <vector>

namespace troupe::model {

/// `source` in another dtype: a rounded or widened copy, or itself if it has that dtype already.
/// f32 and bf16 convert into each other; any other conversion is a broken invariant.
host_tensor in_dtype(const host_tensor& source, gpu::dtype type);

/// Hands a linear weight to the backend in the dtype of the activations it will meet. It can be
/// used once `backend.synchronize()` returned.
gpu::linear_weight prepare_linear(gpu::operations& backend, gpu::dtype activation,
                                  const std::string& name, const host_tensor& weight,
                                  const host_tensor& bias = {});

/// Hands over weights of one shape that one operation uses together.
std::vector<gpu::linear_weight> prepare_linears(gpu::operations& backend, gpu::dtype activation,
                                                const std::string& name,
                                                const std::vector<host_tensor>& weights);

/// The tensors that operations read as they are (tables, norms, masks): collected first, then
/// placed in one sealed arena.
class resident_weights {
 public:
  resident_weights(std::string arena_name, gpu::memory_kind kind);

  /// Takes `source` along; `view` is filled in by `seal` and must stay where it is until then.
  void add(gpu::tensor_view& view, std::string owner, const host_tensor& source, gpu::dtype type);
  /// The same for values computed here rather than loaded.
  template <class T>
  void add(gpu::tensor_view& view, std::string owner, const std::vector<T>& values,
           gpu::dtype type) {
    const auto copy = std::make_shared<computed_bytes<T>>(values);
    const auto count = static_cast<int64_t>(copy->values.size());
    add(view, std::move(owner), {gpu::make_view(copy->values.data(), type, count), copy}, type);
  }

  /// Seals the arena and loads everything into it: it is there once `backend.synchronize()`
  /// returned.
  gpu::arena seal(gpu::operations& backend);

 private:
  template <class T>
  struct computed_bytes final : gpu::weight_bytes {
    explicit computed_bytes(const std::vector<T>& given) : values(given) {}
    std::vector<T> values;
  };
  struct pending {
    gpu::tensor_view* view;
    host_tensor source;
    int32_t reservation;
  };
  gpu::arena arena_;
  std::vector<pending> pending_;
};

}  // namespace troupe::model
