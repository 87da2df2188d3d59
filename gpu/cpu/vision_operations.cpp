#include "gpu/cpu/attention_tasks.hpp"
#include "gpu/cpu/cpu_operations.hpp"
#include "gpu/cpu/live_rows.hpp"
#include "gpu/cpu/typed.hpp"
#include "gpu/described.hpp"
#include "gpu/operands.hpp"

#include <cmath>
#include <utility>

namespace troupe::gpu::cpu {
namespace {

// Patches that make it worth waking a thread.
constexpr int64_t patch_grain = 8;

/// The head_dim, if the kernels' tables and vectors take it.
int64_t head_dim_of(const tensor_view& qkv, int32_t num_heads) {
  const int64_t head_dim = described::vision_head_dim(qkv, num_heads);
  expect(head_dim % 8 == 0 && head_dim <= head_dim_max,
         "head_dim {}, expected a multiple of 8 up to {}", head_dim, head_dim_max);
  return head_dim;
}

/// theta^(-2j / R) for the R / 2 frequencies of each axis, R = head_dim / 2.
std::vector<float> axis_frequencies(int64_t head_dim, float theta) {
  std::vector<float> frequencies(static_cast<size_t>(head_dim / 4));
  for (size_t j = 0; j < frequencies.size(); ++j)
    frequencies[j] =
        1.0F / std::pow(theta, static_cast<float>(2 * j) / static_cast<float>(head_dim / 2));
  return frequencies;
}

}  // namespace

void cpu_operations::add_position_embedding(tensor_view x, tensor_view table, int32_t side,
                                            tensor_view coordinates, live_count patches) {
  auto description = described::add_position_embedding(x, table, side, coordinates, patches);
  with_activation(x.type, [&]<class T>(T) {
    const position_embedding_arguments<T> arguments{rows_of<T>(x), rows_of<const T>(table),
                                                    x.width(), side,
                                                    rows_of<const int32_t>(coordinates)};
    issue(std::move(description), [context = context_.get(), arguments, patches,
                                   capacity = x.rows()] {
      context->threads.for_rows(live_rows(patches, capacity), patch_grain, [&](row_range range) {
        activations_of<T>(context->kernels).add_position_embedding(arguments, range);
      });
    });
  });
}

void cpu_operations::vision_rope(tensor_view qkv, int32_t num_heads, tensor_view coordinates,
                                 float theta, live_count patches) {
  auto description = described::vision_rope(qkv, num_heads, coordinates, theta, patches);
  const int64_t head_dim = head_dim_of(qkv, num_heads);
  with_activation(qkv.type, [&]<class T>(T) {
    const vision_rope_arguments<T> arguments{rows_of<T>(qkv), num_heads, head_dim,
                                             rows_of<const int32_t>(coordinates), nullptr};
    issue(std::move(description), [context = context_.get(), arguments,
                                   frequencies = axis_frequencies(head_dim, theta), patches,
                                   capacity = qkv.rows()] {
      auto now = arguments;
      now.inverse_frequency = frequencies.data();
      context->threads.for_rows(live_rows(patches, capacity), patch_grain, [&](row_range range) {
        activations_of<T>(context->kernels).vision_rope(now, range);
      });
    });
  });
}

void cpu_operations::segment_attention(tensor_view output, tensor_view qkv, int32_t num_heads,
                                       tensor_view segment_start, live_count segments,
                                       live_count patches) {
  auto description =
      described::segment_attention(output, qkv, num_heads, segment_start, segments, patches);
  const int64_t head_dim = head_dim_of(qkv, num_heads);
  const int64_t max_segments = segment_start.elements() - 1;
  reserve_attention_scratch(*context_, head_dim, max_segments);
  const segment_attention_call call{output, qkv, segment_start, num_heads, head_dim};
  issue(std::move(description), [context = context_.get(), call, segments, max_segments, patches] {
    attend_segments(*context, call, live_rows(segments, max_segments),
                    live_rows(patches, call.output.rows()));
  });
}

}  // namespace troupe::gpu::cpu
