#pragma once

#include "gpu/operations.hpp"
#include "model/plan/step_plan.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>

namespace troupe::model {

/// The way of what a step sampled back to the host: one copy of the output arena's used part into
/// memory that the device is fastest with.
class step_outputs {
 public:
  /// `sampled`: views of one arena, laid out in the order of their fields.
  step_outputs(gpu::operations& backend, const gpu::sampling_output& sampled);

  /// Starts the copy of what `plan` asked for, behind the step's graph.
  void fetch(gpu::operations& backend, const plan::step_plan& plan);
  /// The result of `plan`, once the copy was waited for. Elapsed time is the caller's to fill in.
  plan::step_result result_of(const plan::step_plan& plan) const;

 private:
  template <class T>
  const T* host(const gpu::tensor_view& view, int64_t row = 0) const {
    return reinterpret_cast<const T*>(staging_.get() + (view.data - sampled_.tokens.data)) +
           row * view.row_stride;
  }
  plan::token_logprobs logprobs_of(int32_t row, int32_t alternatives) const;

  gpu::sampling_output sampled_;
  std::shared_ptr<std::byte> staging_;
};

}  // namespace troupe::model
