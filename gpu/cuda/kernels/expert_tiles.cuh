#pragma once

#include "gpu/cuda/kernels/expert_table.cuh"
#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/wgmma.cuh"

#include <cstdint>

/// The product of experts for many rows: a tile of 128 members times 128 weight rows per block, two
/// warp groups with 64 members each. Of a gated product the 128 rows are 64 of the gate and the
/// same 64 of up, so that one thread ends up with both.
namespace troupe::gpu::cuda {

constexpr int32_t tile_threads = 256;
constexpr int32_t tile_columns = 64;  // of one stage
constexpr int32_t tile_chunks = tile_columns / chunk_values;
constexpr int32_t tile_weights = 128;
constexpr int32_t tile_stages = 3;
constexpr uint32_t tile_row_bytes = tile_columns * 2;
constexpr uint32_t operand_bytes = 128 * tile_row_bytes;
constexpr uint32_t stage_bytes = 2 * operand_bytes;
constexpr uint32_t tiles_shared_bytes = tile_stages * stage_bytes;
static_assert(tile_rows == 128 && tile_row_bytes == 128);

/// Where chunk `chunk` of row `row` lies in an operand: the chunks of a row share one line of
/// shared memory, which asynchronous copies fill at once, in an order that spreads a column over
/// all banks. (The hardware calls it swizzling by 128 bytes; it counts from addresses that are
/// multiples of 1024.)
__device__ __forceinline__ uint32_t chunk_offset(int32_t row, int32_t chunk) {
  return static_cast<uint32_t>(row) * tile_row_bytes +
         static_cast<uint32_t>(chunk ^ row % tile_chunks) * chunk_bytes;
}
/// Such an operand from a row that is a multiple of 8 and 16 columns from `address` on.
__device__ __forceinline__ uint64_t swizzled_operand(uint32_t address) {
  constexpr uint64_t swizzle_128 = uint64_t{1} << 62;
  return tile_descriptor(address, chunk_bytes, 8 * tile_row_bytes) | swizzle_128;
}

/// A thread's share of the copies into a stage: one chunk of every 32nd row.
struct tile_copier {
  static constexpr int32_t rows_per_round = tile_threads / tile_chunks;
  static constexpr int32_t rounds = 128 / rows_per_round;
  static_assert(rows_per_round % tile_chunks == 0);  // rounds differ by whole rows alone
  const bf16* members[rounds];
  const bf16* weights[rounds];
  uint32_t target;  // in the first stage
  int32_t column;
  int32_t in;

  __device__ void copy(int32_t step) const {
    const int32_t from = step * tile_columns + column;
    const uint32_t to = target + static_cast<uint32_t>(step % tile_stages) * stage_bytes;
    const bool valid = from < in;
#pragma unroll
    for (int32_t i = 0; i < rounds; ++i) {
      const uint32_t row = to + static_cast<uint32_t>(i * rows_per_round) * tile_row_bytes;
      copy16_async(row, members[i] + from, valid);
      copy16_async(row + operand_bytes, weights[i] + from, valid);
    }
  }
};

/// The expert of tile `tile`, or -1. All threads of the block call it.
__device__ __forceinline__ int32_t expert_of_tile(const expert_table& table, int32_t num_experts,
                                                  int32_t tile) {
  __shared__ int32_t found;
  if (threadIdx.x == 0) found = -1;
  __syncthreads();
  for (auto i = static_cast<int32_t>(threadIdx.x); i < num_experts; i += tile_threads)
    if (table.tile_starts[i] <= tile && tile < table.tile_starts[i + 1]) found = i;
  __syncthreads();
  return found;
}

/// Sums of a warp group: 64 members, 128 weight rows.
__device__ __forceinline__ void multiply_stage(float (&sums)[64], uint32_t stage, int32_t group,
                                               bool add) {
  const uint32_t members = stage + static_cast<uint32_t>(group) * 64 * tile_row_bytes;
  const uint32_t weights = stage + operand_bytes;
  warpgroup_begin();
#pragma unroll
  for (uint32_t chunk = 0; chunk < tile_chunks; chunk += 2)
    wgmma_rows(sums, swizzled_operand(members + chunk * chunk_bytes),
               swizzled_operand(weights + chunk * chunk_bytes), add || chunk > 0);
  warpgroup_commit();
}

/// Writes a thread's two rows of sums.
template <bool is_gated>
__device__ __forceinline__ void store_tile(const expert_product<bf16>& product,
                                           const float (&sums)[64], const int32_t (&pairs)[2],
                                           int32_t first_output, int32_t outputs) {
  const int32_t lane_columns = static_cast<int32_t>(threadIdx.x) % 4 * 2;
#pragma unroll
  for (int32_t half = 0; half < 2; ++half) {
    if (pairs[half] < 0) continue;
#pragma unroll
    for (int32_t n = 0; n < (is_gated ? 8 : 16); ++n) {
      const int32_t place = first_output + n * 8 + lane_columns;
      if (place >= outputs) continue;
      const float* low = &sums[n * 4 + half * 2];
      if constexpr (is_gated) {
        const float* up = &sums[(n + 8) * 4 + half * 2];
        *reinterpret_cast<uint32_t*>(product.gated_row(pairs[half]) + place) =
            pack_bf16(gated<bf16>(low[0], up[0]), gated<bf16>(low[1], up[1]));
      } else {
        *reinterpret_cast<float2*>(product.sum_row(pairs[half]) + place) =
            make_float2(low[0], low[1]);
      }
    }
  }
}

template <bool is_gated>
__global__ void __launch_bounds__(tile_threads, 2)
    expert_tiles_kernel(expert_product<bf16> product, expert_table table, int32_t num_experts) {
  extern __shared__ __align__(1024) char stages[];
  release_successor();
  wait_for_predecessor();
  const auto tile = static_cast<int32_t>(blockIdx.y);
  const int32_t expert = expert_of_tile(table, num_experts, tile);
  if (expert < 0) return;
  const int32_t first_member =
      table.offsets[expert] + (tile - table.tile_starts[expert]) * tile_rows;
  const int32_t count = min(tile_rows, table.offsets[expert + 1] - first_member);
  const int32_t* pairs = table.members + first_member;

  constexpr int32_t outputs_per_tile = is_gated ? tile_weights / 2 : tile_weights;
  const int32_t outputs = is_gated ? product.out / 2 : product.out;
  const int32_t first_output = static_cast<int32_t>(blockIdx.x) * outputs_per_tile;
  const auto thread = static_cast<int32_t>(threadIdx.x);
  tile_copier copier;
  const int32_t chunk = thread % tile_chunks, copied_row = thread / tile_chunks;
  copier.column = chunk * chunk_values;
  copier.in = product.in;
  copier.target = shared_address(stages) + chunk_offset(copied_row, chunk);
#pragma unroll
  for (int32_t i = 0; i < tile_copier::rounds; ++i) {
    // Rows past the end are computed from the last one and not stored.
    const int32_t row = copied_row + i * tile_copier::rows_per_round;
    copier.members[i] = product.input_row(pairs[min(row, count - 1)]);
    const int32_t output = min(first_output + row % outputs_per_tile, outputs - 1);
    copier.weights[i] = product.weight_row(expert, output + row / outputs_per_tile * outputs);
  }

  const int32_t steps = (product.in + tile_columns - 1) / tile_columns;
  const int32_t group = thread / (4 * warp_size);
  float sums[64];
  copier.copy(0);
  commit_copies();
  if (steps > 1) copier.copy(1);
  commit_copies();
  for (int32_t step = 0; step < steps; ++step) {
    wait_copies<1>();
    fence_shared_for_async();
    __syncthreads();  // the stage is there, and the one before it was read
    multiply_stage(sums,
                   shared_address(stages) + static_cast<uint32_t>(step % tile_stages) * stage_bytes,
                   group, step > 0);
    if (step + 2 < steps) copier.copy(step + 2);
    commit_copies();
    warpgroup_wait<0>();
  }
  const int32_t row = thread / warp_size * 16 + thread % warp_size / 4;
  const int32_t stored[2] = {row < count ? pairs[row] : -1, row + 8 < count ? pairs[row + 8] : -1};
  store_tile<is_gated>(product, sums, stored, first_output, outputs);
}

}  // namespace troupe::gpu::cuda
