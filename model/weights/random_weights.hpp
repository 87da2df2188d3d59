#pragma once

#include "model/weights/weight_layout.hpp"

#include <cstdint>

namespace troupe::model {

/// Values made from (seed, tensor name, row, column) alone, in bf16: any piece of a tensor is the
/// same whoever asks for it. Matrices have zero mean and a deviation near 1 / sqrt(columns), so
/// that activations keep their size through the network; norm weights lie in [1, 1.25).
class random_weights : public weight_source {
 public:
  explicit random_weights(uint64_t seed) : seed_(seed) {}

  host_tensor gather(const std::vector<weight_piece>& pieces) override;

 private:
  uint64_t seed_;
};

}  // namespace troupe::model
