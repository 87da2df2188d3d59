#include "gpu/cpu/experts.hpp"

#include "gpu/bfloat16.hpp"
#include "gpu/cpu/typed.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

namespace troupe::gpu::cpu {
namespace {

constexpr int64_t alignment_bytes = 64;

/// Cuts aligned pieces from a block; from null it only counts.
class cutter {
 public:
  explicit cutter(std::byte* memory) : memory_(memory) {}

  template <class T>
  T* take(int64_t count) {
    std::byte* piece = memory_ == nullptr ? nullptr : memory_ + bytes_;
    const int64_t bytes = count * static_cast<int64_t>(sizeof(T));
    bytes_ += (bytes + alignment_bytes - 1) / alignment_bytes * alignment_bytes;
    return reinterpret_cast<T*>(piece);
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  int64_t bytes_ = 0;
};

expert_buffers cut(cutter& memory, const expert_call& call) {
  const int64_t rows = call.capacity();
  const int64_t element = size_of(call.input.type);
  expert_buffers buffers{};
  buffers.probabilities = memory.take<float>(call.num_experts());
  buffers.chosen = memory.take<int32_t>(rows * call.top_k);
  buffers.weights = memory.take<float>(rows * call.top_k);
  buffers.members = memory.take<int32_t>(rows);
  buffers.member_weights = memory.take<float>(rows);
  buffers.input = memory.take<std::byte>(rows * call.input.width() * element);
  buffers.gate_up = memory.take<std::byte>(rows * 2 * call.width * element);
  buffers.activated = memory.take<std::byte>(rows * call.width * element);
  buffers.output = memory.take<float>(rows * call.output.width());
  return buffers;
}

/// Softmax over the experts, the top_k largest (lowest index on a tie), renormalised. The weights
/// of bf16 models are rounded to bf16, as in the reference.
void route_row(const expert_call& call, const expert_buffers& buffers, int64_t row) {
  const auto experts = static_cast<int32_t>(call.num_experts());
  const float* logits =
      rows_of<const float>(call.router_logits).data + row * call.router_logits.row_stride;
  float* probabilities = buffers.probabilities;
  const float peak = *std::max_element(logits, logits + experts);
  for (int32_t i = 0; i < experts; ++i) probabilities[i] = std::exp(logits[i] - peak);

  int32_t* chosen = buffers.chosen + row * call.top_k;
  float* weights = buffers.weights + row * call.top_k;
  float total = 0;
  for (int32_t k = 0; k < call.top_k; ++k) {
    const float* best = std::max_element(probabilities, probabilities + experts);
    chosen[k] = static_cast<int32_t>(best - probabilities);
    weights[k] = *best;
    total += *best;
    probabilities[chosen[k]] = -1;
  }
  for (int32_t k = 0; k < call.top_k; ++k) {
    weights[k] /= total;
    if (call.input.type == dtype::bf16) weights[k] = to_float(to_bfloat16(weights[k]));
  }
}

/// Collects the rows that chose `expert`; returns how many.
int64_t collect_members(const expert_call& call, const expert_buffers& buffers, int32_t expert,
                        int64_t rows) {
  const int64_t row_bytes = call.input.width() * size_of(call.input.type);
  int64_t count = 0;
  for (int64_t row = 0; row < rows; ++row) {
    const int32_t* chosen = buffers.chosen + row * call.top_k;
    const int32_t* found = std::find(chosen, chosen + call.top_k, expert);
    if (found == chosen + call.top_k) continue;
    buffers.members[count] = static_cast<int32_t>(row);
    buffers.member_weights[count] = buffers.weights[row * call.top_k + (found - chosen)];
    std::memcpy(buffers.input + count * row_bytes,
                call.input.data + row * call.input.row_stride * size_of(call.input.type),
                static_cast<size_t>(row_bytes));
    ++count;
  }
  return count;
}

void run_expert(context& context, const expert_call& call, const expert_buffers& buffers,
                int32_t expert, int64_t members) {
  const auto index = static_cast<size_t>(expert);
  context.products.run(call.gate_up[index], buffers.gate_up, buffers.input, members,
                       call.capacity());
  with_activation(call.input.type, [&]<class T>(T) {
    const unary_arguments<T> arguments{
        {reinterpret_cast<T*>(buffers.activated), call.width},
        {reinterpret_cast<const T*>(buffers.gate_up), 2 * call.width},
        call.width};
    context.threads.for_rows(members, 1, [&](row_range range) {
      activations_of<T>(context.kernels).silu_and_mul(arguments, range);
    });
  });
  context.products.run(call.down[index], reinterpret_cast<std::byte*>(buffers.output),
                       buffers.activated, members, call.capacity());
  const int64_t hidden = call.output.width();
  for (int64_t i = 0; i < members; ++i)
    context.kernels.add_scaled(
        call.output.as<float>() + buffers.members[i] * call.output.row_stride,
        buffers.output + i * hidden, buffers.member_weights[i], hidden);
}

}  // namespace

expert_call prepare_experts(context& context, tensor_view output, tensor_view input,
                            tensor_view router_logits, int32_t top_k,
                            const std::vector<linear_weight>& gate_up,
                            const std::vector<linear_weight>& down) {
  expert_call call{output, input, router_logits, top_k, down.front().in_features, {}, {}};
  cutter size(nullptr);
  cut(size, call);
  context.expert_scratch.reserve(size.bytes());
  const int64_t rows = output.rows();
  const auto packed = [&](dtype type, int64_t width) {
    return make_view(context.expert_scratch.as<std::byte>(), type, rows, width);
  };
  for (size_t expert = 0; expert < gate_up.size(); ++expert) {
    call.gate_up.push_back(context.products.prepare(gate_up[expert].index,
                                                    packed(input.type, 2 * call.width),
                                                    packed(input.type, input.width())));
    call.down.push_back(context.products.prepare(
        down[expert].index, packed(dtype::f32, output.width()), packed(input.type, call.width)));
  }
  return call;
}

void run_experts(context& context, const expert_call& call, int64_t rows) {
  cutter memory(context.expert_scratch.as<std::byte>());
  const expert_buffers buffers = cut(memory, call);
  for (int64_t row = 0; row < rows; ++row) {
    route_row(call, buffers, row);
    std::fill_n(call.output.as<float>() + row * call.output.row_stride, call.output.width(), 0.0F);
  }
  for (int32_t expert = 0; expert < call.num_experts(); ++expert) {
    const int64_t members = collect_members(call, buffers, expert, rows);
    if (members > 0) run_expert(context, call, buffers, expert, members);
  }
}

}  // namespace troupe::gpu::cpu
