#pragma once

#include "gpu/operations.hpp"
#include "model/plan/step_plan.hpp"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe::model {

/// What a step computed, bit by bit: equal fingerprints are equal results. Live rows alone count.
///
/// The last residual stream depends on every layer and on every key and value that the step wrote
/// and read, so that a step without a logit row can be compared as well.
struct step_fingerprint {
  gpu::digest128 residual{};           // of all tokens
  std::vector<gpu::digest128> logits;  // [rows]
  std::vector<int32_t> tokens;         // [rows] sampled
  bool operator==(const step_fingerprint&) const = default;
};

/// Where `found`, of a graph, is not `expected`, of the same kernels without it; empty if nowhere.
std::string difference(const step_fingerprint& found, const step_fingerprint& expected);

/// Reads results back piece by piece, through a fixed amount of host memory.
class fingerprint_reader {
 public:
  explicit fingerprint_reader(gpu::operations& backend);

  /// Digest of the first `rows` rows of a dense view. Waits for everything issued so far.
  gpu::digest128 digest(gpu::operations& backend, const gpu::tensor_view& view, int64_t rows);

 private:
  std::shared_ptr<std::byte> staging_;
};

}  // namespace troupe::model
