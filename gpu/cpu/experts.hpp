#pragma once

#include "gpu/cpu/cpu_operations.hpp"

#include <cstdint>
#include <vector>

namespace troupe::gpu::cpu {

/// Working memory of a mixture of experts, cut from the context's expert scratch.
struct expert_buffers {
  float* probabilities;   // [experts]
  int32_t* chosen;        // [rows, top_k] experts, best first
  float* weights;         // [rows, top_k], they sum to 1
  int32_t* members;       // [rows] rows of the expert at hand
  float* member_weights;  // [rows]
  std::byte* input;       // [rows, hidden] of the members
  std::byte* gate_up;     // [rows, 2 * width]
  std::byte* activated;   // [rows, width]
  float* output;          // [rows, hidden]
};

/// Everything one mixture of experts needs to run.
struct expert_call {
  tensor_view output;  // [rows, hidden] f32
  tensor_view input;
  tensor_view router_logits;
  int32_t top_k = 0;
  int64_t width = 0;
  std::vector<matmul_plan> gate_up, down;

  int64_t capacity() const { return output.rows(); }
  int64_t num_experts() const { return router_logits.width(); }
};

/// Makes the plans and the working memory. Throws gpu::error.
expert_call prepare_experts(context& context, tensor_view output, tensor_view input,
                            tensor_view router_logits, int32_t top_k,
                            const std::vector<linear_weight>& gate_up,
                            const std::vector<linear_weight>& down);

/// The first `rows` rows. A row's sum runs over its experts by ascending index: it does not depend
/// on where other rows went.
void run_experts(context& context, const expert_call& call, int64_t rows);

}  // namespace troupe::gpu::cpu
