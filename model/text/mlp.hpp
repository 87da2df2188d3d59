#pragma once

#include "model/text/text_step.hpp"

#include <variant>
#include <vector>

namespace troupe::model {

/// down(silu(gate) * up) of one layer.
struct dense_mlp {
  gpu::linear_weight gate_up;
  gpu::linear_weight down;

  void issue(const text_step& step) const;
};

/// The same, by the few experts that a router chooses for each token.
struct expert_mlp {
  gpu::linear_weight router;
  std::vector<gpu::linear_weight> gate_up;  // [experts]
  std::vector<gpu::linear_weight> down;     // [experts]
  int32_t num_experts_per_tok = 0;

  void issue(const text_step& step) const;
};

/// Either kind reads `normed` and leaves this rank's part of the result in `partial`.
using mlp = std::variant<dense_mlp, expert_mlp>;

}  // namespace troupe::model
