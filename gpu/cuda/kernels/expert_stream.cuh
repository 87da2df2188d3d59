#pragma once

#include "gpu/cuda/kernels/expert_table.cuh"
#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/mma.cuh"

#include <cstdint>

/// The product of experts for few rows: what it costs is reading each chosen expert's weights once.
///
/// A warp streams 16 weight rows straight into registers, many loads under way, and multiplies them
/// with up to 8 * column_tiles members. The matrix instruction takes weights as its rows and
/// members as its columns; the order of the products inside a sum is free, so a lane gives it the
/// eight neighbouring values that one 16-byte load brings, of weights and members alike. Of a gated
/// product the 16 rows are 8 of the gate and the same 8 of up, so that one lane ends up with both.
namespace troupe::gpu::cuda {

constexpr int32_t stream_warps = 4;
constexpr int32_t stream_threads = stream_warps * warp_size;
constexpr int32_t stream_step = 32;  // columns of one load of a warp

/// Weights are read once: they shall not push activations out of the caches.
__device__ __forceinline__ uint4 load_once(const void* address) {
  uint4 value;
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "l"(address));
  return value;
}

/// `split` warps share 16 weight rows, each with its part of the columns.
template <int32_t column_tiles, int32_t split, bool is_gated>
struct stream_layout {
  static constexpr int32_t groups = stream_warps / split;
  static constexpr int32_t outputs = is_gated ? 8 : 16;  // of a group
  static constexpr int32_t outputs_per_block = groups * outputs;
  static constexpr int32_t members = 8 * column_tiles;
  static constexpr int32_t blocks = column_tiles == 1 ? 5 : 4;  // per multiprocessor
  static constexpr int32_t batch = column_tiles == 2 ? 8 : 4;   // steps whose loads go together
};

/// This warp's sums over its columns for members [first, first + live_members) of a pass.
template <class Layout, int32_t column_tiles, bool is_gated>
__device__ __forceinline__ void stream_columns(float (&sums)[column_tiles][4],
                                               const expert_product<bf16>& product,
                                               const bf16* low_row, const bf16* high_row,
                                               const bf16* const (&members)[column_tiles],
                                               int32_t live_members, int32_t first, int32_t last) {
  const int32_t offset = static_cast<int32_t>(threadIdx.x) % 4 * 8;
  for (int32_t start = first; start < last; start += Layout::batch * stream_step) {
    uint4 low[Layout::batch], high[Layout::batch];
#pragma unroll
    for (int32_t i = 0; i < Layout::batch; ++i) {
      const int32_t column = start + i * stream_step + offset;
      low[i] = column < last ? load_once(low_row + column) : uint4{};
      high[i] = column < last ? load_once(high_row + column) : uint4{};
    }
#pragma unroll
    for (int32_t i = 0; i < Layout::batch; ++i) {
      const int32_t column = start + i * stream_step + offset;
#pragma unroll
      for (int32_t t = 0; t < column_tiles; ++t) {
        if (t * 8 >= live_members) break;
        const uint4 x =
            column < last ? *reinterpret_cast<const uint4*>(members[t] + column) : uint4{};
        mma_16x8x16(sums[t], {low[i].x, high[i].x, low[i].y, high[i].y}, x.x, x.y);
        mma_16x8x16(sums[t], {low[i].z, high[i].z, low[i].w, high[i].w}, x.z, x.w);
      }
    }
  }
}

template <int32_t column_tiles, int32_t split, bool is_gated>
__global__ void __launch_bounds__(stream_threads,
                                  stream_layout<column_tiles, split, is_gated>::blocks)
    expert_stream_kernel(expert_product<bf16> product, expert_table table) {
  using layout = stream_layout<column_tiles, split, is_gated>;
  constexpr int32_t rows = 16;
  __shared__ float shared[layout::groups][split][layout::members][rows + 1];
  release_successor();
  wait_for_predecessor();
  const auto slot = static_cast<int32_t>(blockIdx.y);
  if (slot >= *table.num_active) return;
  const int32_t expert = table.active[slot];
  const int32_t first_member = table.offsets[expert];
  const int32_t count = table.offsets[expert + 1] - first_member;

  const auto warp = static_cast<int32_t>(threadIdx.x / warp_size);
  const auto lane = static_cast<int32_t>(threadIdx.x % warp_size);
  const int32_t group = warp / split, part = warp % split;
  const int32_t outputs = is_gated ? product.out / 2 : product.out;
  const int32_t first_output =
      (static_cast<int32_t>(blockIdx.x) * layout::groups + group) * layout::outputs;
  // Rows past the end are computed from the last one and not stored.
  const int32_t output = min(first_output + lane / 4, outputs - 1);
  const bf16* low_row = product.weight_row(expert, output);
  const bf16* high_row = product.weight_row(
      expert, is_gated ? outputs + output : min(first_output + lane / 4 + 8, outputs - 1));
  const int32_t steps = (product.in + stream_step - 1) / stream_step;
  const int32_t columns = (steps + split - 1) / split * stream_step;
  const int32_t first = part * columns, last = min(first + columns, product.in);

  for (int32_t pass = 0; pass < count; pass += layout::members) {
    const int32_t live_members = min(count - pass, layout::members);
    const int32_t* pairs = table.members + first_member + pass;
    const bf16* members[column_tiles];
#pragma unroll
    for (int32_t t = 0; t < column_tiles; ++t)
      members[t] = product.input_row(pairs[min(t * 8 + lane / 4, live_members - 1)]);
    float sums[column_tiles][4] = {};
    stream_columns<layout, column_tiles, is_gated>(sums, product, low_row, high_row, members,
                                                   live_members, first, last);
#pragma unroll
    for (int32_t t = 0; t < column_tiles; ++t)
#pragma unroll
      for (int32_t i = 0; i < 4; ++i)
        shared[group][part][t * 8 + lane % 4 * 2 + i % 2][lane / 4 + i / 2 * 8] = sums[t][i];
    __syncthreads();
    const auto total = [&](int32_t of_group, int32_t member, int32_t row) {
      float sum = 0;
#pragma unroll
      for (int32_t i = 0; i < split; ++i) sum += shared[of_group][i][member][row];
      return sum;
    };
    for (auto i = static_cast<int32_t>(threadIdx.x); i < live_members * layout::outputs_per_block;
         i += stream_threads) {
      const int32_t member = i / layout::outputs_per_block, index = i % layout::outputs_per_block;
      const int32_t of_group = index / layout::outputs, row = index % layout::outputs;
      const int32_t place = static_cast<int32_t>(blockIdx.x) * layout::outputs_per_block + index;
      if (place >= outputs) continue;
      if constexpr (is_gated)
        product.gated_row(pairs[member])[place] = from_f32<bf16>(
            gated<bf16>(total(of_group, member, row), total(of_group, member, row + 8)));
      else
        product.sum_row(pairs[member])[place] = total(of_group, member, row);
    }
    __syncthreads();
  }
}

}  // namespace troupe::gpu::cuda
