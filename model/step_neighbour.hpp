#pragma once

#include "gpu/operations.hpp"
#include "model/plan/step_plan.hpp"

namespace troupe::model {

/// Whoever else uses the device of a rank, and orders its work with the rank's steps. Told of each
/// on the rank's thread; changes when a step runs, never what it computes.
class step_neighbour {
 public:
  virtual ~step_neighbour() = default;
  /// The step is about to be issued to `backend`, which may be made to wait first.
  virtual void step_begins(gpu::operations& backend, const plan::step_plan& plan) = 0;
  /// All of it was issued. Not called if issuing failed.
  virtual void step_issued(gpu::operations& backend) = 0;
  /// It is done, or failed. Follows every `step_begins`.
  virtual void step_ends() noexcept = 0;
};

}  // namespace troupe::model
