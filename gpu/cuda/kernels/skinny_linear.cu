#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/mma.cuh"
#include "gpu/cuda/kernels/skinny_linear.hpp"
#include "gpu/cuda/kernels/typed.cuh"

#include <algorithm>

/// How it works. The columns of the output are cut into tiles of some weight rows, which blocks take in
/// turn, one block per multiprocessor. One warp keeps a ring of weight chunks full by bulk copies;
/// it starts before the predecessor has ended, since weights never change. Eight warps multiply: each has
/// its own eighth of every chunk's columns and keeps the sums of all rows in registers; at the end of a
/// tile the eight sums are added in a fixed order.
///
/// The matrix instruction takes 16 weight rows as its rows and 8 activation rows as its columns. The order
/// of the products inside a sum is free, so a lane gives the instruction the eight neighbouring values
/// that one 16-byte load brings, of the weights and of the activations alike.
namespace troupe::gpu::cuda {
namespace {

constexpr int32_t consumer_warps = 8;
constexpr int32_t consumer_threads = consumer_warps * warp_size;
constexpr int32_t block_threads = consumer_threads + warp_size;
constexpr int32_t chunk = 512;                            // columns of weights per stage
constexpr int32_t slice = chunk / consumer_warps;         // of them per warp
constexpr int32_t step = 32;                              // columns per pair of instructions
constexpr int32_t row_stride_bytes = chunk * 2 + 64;      // neighbouring rows in other banks
// Of shared memory. More than half of a multiprocessor's, so that it never holds two of these blocks: the
// early blocks of the next kernel would crowd where there is room and leave other multiprocessors idle. Less
// than what leaves no room for attention.
constexpr int32_t shared_bytes_min = 117 * 1024;
constexpr int32_t shared_bytes_aim = 132 * 1024;
constexpr int32_t shared_bytes_aim_many_rows = 200 * 1024;  // chunks of 32 weight rows are twice as large

/// Shapes known when compiling: tiles of up to 8 * row_halves weight rows and 8 * column_tiles activation
/// rows. The matrix instruction takes two halves of weight rows; the last may be alone.
template <int32_t row_halves, int32_t column_tiles>
struct skinny_layout {
  static constexpr int32_t weight_rows = 8 * row_halves;
  static constexpr int32_t row_tiles = (row_halves + 1) / 2;
  static constexpr int32_t input_rows = 8 * column_tiles;
  static constexpr int32_t stage_bytes = weight_rows * row_stride_bytes;
  static constexpr int32_t sums = weight_rows * input_rows;  // of one warp
  static constexpr int32_t sums_bytes = consumer_warps * sums * 4;
  static constexpr int32_t stages =
      ((column_tiles <= 2 ? shared_bytes_aim : shared_bytes_aim_many_rows) - sums_bytes) /
      stage_bytes;
  static constexpr int32_t shared_bytes =
      std::max(stages * stage_bytes + sums_bytes + 2 * stages * 8, shared_bytes_min);
};

struct skinny_shape {
  int32_t rows, in, out;
  int32_t gate_width;  // 0: not gated; else half of `out`
  int32_t tile_rows;   // of weights; even where gated
  int32_t tiles;
};

struct skinny_pointers {
  const bf16* weight;
  int64_t weight_stride;
  matrix<const bf16> input;
  const bf16* bias;
  void* output;
  int64_t output_stride;
};

/// The weight row that is row `index` of tile `tile`. Gated tiles hold half gate rows, half up rows.
__device__ __forceinline__ int32_t weight_row(const skinny_shape& shape, int32_t tile,
                                              int32_t index) {
  if (shape.gate_width == 0) return tile * shape.tile_rows + index;
  const int32_t half = shape.tile_rows / 2;
  return index < half ? tile * half + index : shape.gate_width + tile * half + index - half;
}

__device__ __forceinline__ uint4 load_shared(uint32_t address) {
  uint4 value;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w)
               : "r"(address));
  return value;
}

__device__ __forceinline__ void consumers_meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(consumer_threads) : "memory");
}

template <class Layout>
struct weight_ring {
  char* stages;
  uint64_t* full;   // [stages] bytes arrived
  uint64_t* empty;  // [stages] every consumer warp has read

  __device__ char* stage(int32_t index) const { return stages + index * Layout::stage_bytes; }
};

/// The producer warp: lane r copies weight row r of every chunk.
template <class Layout>
__device__ void produce(const weight_ring<Layout>& ring, const skinny_pointers& pointers,
                        const skinny_shape& shape) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
  const uint64_t policy = evict_first_policy();
  int32_t stage = 0;
  uint32_t parity = 1;  // the first pass finds every stage empty
  for (int32_t tile = static_cast<int32_t>(blockIdx.x); tile < shape.tiles;
       tile += static_cast<int32_t>(gridDim.x)) {
    const int32_t row = min(weight_row(shape, tile, lane), shape.out - 1);
    const bf16* source = pointers.weight + row * pointers.weight_stride;
    for (int32_t first = 0; first < shape.in; first += chunk) {
      const auto bytes = static_cast<uint32_t>(min(chunk, shape.in - first) * 2);
      barrier_wait(&ring.empty[stage], parity);
      if (lane == 0)
        barrier_arrive_expecting(&ring.full[stage],
                                 bytes * static_cast<uint32_t>(shape.tile_rows));
      __syncwarp();
      if (lane < shape.tile_rows)
        copy_bulk(ring.stage(stage) + lane * row_stride_bytes, source + first, bytes,
                  &ring.full[stage], policy);
      if (++stage == Layout::stages) {
        stage = 0;
        parity ^= 1;
      }
    }
  }
}

/// The activations of one lane for one chunk.
template <int32_t column_tiles>
struct input_fragment {
  uint4 values[slice / step][column_tiles];
};

template <int32_t column_tiles>
__device__ __forceinline__ void load_input(input_fragment<column_tiles>& fragment,
                                           const skinny_pointers& pointers,
                                           const skinny_shape& shape, int32_t first) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
#pragma unroll
  for (int32_t s = 0; s < slice / step; ++s)
#pragma unroll
    for (int32_t t = 0; t < column_tiles; ++t) {
      const int32_t row = t * 8 + lane / 4, column = first + s * step + lane % 4 * 8;
      fragment.values[s][t] = row < shape.rows && column < shape.in
                                  ? *reinterpret_cast<const uint4*>(pointers.input.row(row) + column)
                                  : uint4{};
    }
}

template <int32_t row_tiles, int32_t column_tiles>
using tile_sums = float[row_tiles][column_tiles][4];

/// This warp's share of one chunk.
template <int32_t row_halves, int32_t row_tiles, int32_t column_tiles>
__device__ __forceinline__ void multiply_chunk(tile_sums<row_tiles, column_tiles>& sums,
                                               const input_fragment<column_tiles>& input,
                                               uint32_t weights, int32_t live_columns) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
#pragma unroll
  for (int32_t s = 0; s < slice / step; ++s) {
    if (s * step >= live_columns) return;
#pragma unroll
    for (int32_t r = 0; r < row_tiles; ++r) {
      const uint32_t place = weights + (r * 16 + lane / 4) * row_stride_bytes + s * step * 2 +
                             lane % 4 * 16;
      const uint4 low = load_shared(place);
      const uint4 high =
          2 * r + 1 < row_halves ? load_shared(place + 8 * row_stride_bytes) : uint4{};
      const uint32_t first[4] = {low.x, high.x, low.y, high.y};
      const uint32_t second[4] = {low.z, high.z, low.w, high.w};
#pragma unroll
      for (int32_t t = 0; t < column_tiles; ++t) {
        const uint4 x = input.values[s][t];
        mma_16x8x16(sums[r][t], first, x.x, x.y);
        mma_16x8x16(sums[r][t], second, x.z, x.w);
      }
    }
  }
}

__device__ __forceinline__ void store_value(float* target, float value) { *target = value; }
__device__ __forceinline__ void store_value(bf16* target, float value) {
  *target = from_f32<bf16>(value);
}

/// Adds the eight warps' sums of one output in order.
template <class Layout>
__device__ __forceinline__ float total_of(const float* sums, int32_t index) {
  float total = 0;
#pragma unroll
  for (int32_t warp = 0; warp < consumer_warps; ++warp) total += sums[warp * Layout::sums + index];
  return total;
}

/// Writes a tile. Sums lie [warp][input row][weight row].
template <class Layout, class Output>
__device__ void store_tile(const float* sums, const skinny_pointers& pointers,
                           const skinny_shape& shape, int32_t tile) {
  auto* output = static_cast<Output*>(pointers.output);
  const int32_t columns = shape.gate_width == 0 ? shape.tile_rows : shape.tile_rows / 2;
  const int32_t width = shape.gate_width == 0 ? shape.out : shape.gate_width;
  const auto value_at = [&](int32_t index, int32_t row) {
    const float bias = pointers.bias != nullptr ? to_f32(pointers.bias[row]) : 0.0F;
    return total_of<Layout>(sums, index) + bias;
  };
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < columns * shape.rows;
       i += consumer_threads) {
    const int32_t input_row = i / columns, column = i % columns;
    const int32_t place = tile * columns + column;
    if (place >= width) continue;
    const int32_t index = input_row * Layout::weight_rows + column;
    float value = value_at(index, place);
    if (shape.gate_width != 0) {
      const float up = value_at(index + columns, shape.gate_width + place);
      const float gate = rounded<bf16>(value);
      value = rounded<bf16>(gate / (1.0F + __expf(-gate))) * rounded<bf16>(up);
    }
    store_value(output + input_row * pointers.output_stride + place, value);
  }
}

/// Lays a warp's sums of a tile where `store_tile` finds them.
template <class Layout, int32_t row_tiles, int32_t column_tiles>
__device__ __forceinline__ void share_sums(float* own,
                                           const tile_sums<row_tiles, column_tiles>& sums) {
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
#pragma unroll
  for (int32_t r = 0; r < row_tiles; ++r)
#pragma unroll
    for (int32_t t = 0; t < column_tiles; ++t)
#pragma unroll
      for (int32_t i = 0; i < 4; ++i) {
        const int32_t weight = r * 16 + lane / 4 + i / 2 * 8, row = t * 8 + lane % 4 * 2 + i % 2;
        if (r * 16 + i / 2 * 8 < Layout::weight_rows)
          own[row * Layout::weight_rows + weight] = sums[r][t][i];
      }
}

template <int32_t row_halves, int32_t column_tiles, class Output>
__device__ void consume(const weight_ring<skinny_layout<row_halves, column_tiles>>& ring,
                        float* all_sums, const skinny_pointers& pointers,
                        const skinny_shape& shape) {
  using layout = skinny_layout<row_halves, column_tiles>;
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
  const int32_t warp = static_cast<int32_t>(threadIdx.x / warp_size);
  const int32_t first_column = warp * slice;
  int32_t stage = 0;
  uint32_t parity = 0;
  input_fragment<column_tiles> input;
  load_input(input, pointers, shape, first_column);
  for (int32_t tile = static_cast<int32_t>(blockIdx.x); tile < shape.tiles;
       tile += static_cast<int32_t>(gridDim.x)) {
    tile_sums<layout::row_tiles, column_tiles> sums{};
    for (int32_t first = 0; first < shape.in; first += chunk) {
      // The next chunk's activations are under way while this chunk's weights are awaited.
      const input_fragment<column_tiles> now = input;
      const int32_t next = first + chunk < shape.in ? first + chunk : 0;
      load_input(input, pointers, shape, next + first_column);
      barrier_wait(&ring.full[stage], parity);
      multiply_chunk<row_halves, layout::row_tiles, column_tiles>(
          sums, now, shared_address(ring.stage(stage)) + first_column * 2,
          shape.in - first - first_column);
      __syncwarp();
      if (lane == 0) barrier_arrive(&ring.empty[stage]);
      if (++stage == layout::stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    share_sums<layout>(all_sums + warp * layout::sums, sums);
    consumers_meet();
    store_tile<layout, Output>(all_sums, pointers, shape, tile);
    consumers_meet();
  }
}

template <int32_t row_halves, int32_t column_tiles, class Output>
__global__ void __launch_bounds__(block_threads)
    skinny_linear_kernel(skinny_pointers pointers, skinny_shape shape) {
  using layout = skinny_layout<row_halves, column_tiles>;
  extern __shared__ __align__(128) char shared[];
  auto* sums = reinterpret_cast<float*>(shared + layout::stages * layout::stage_bytes);
  auto* barriers = reinterpret_cast<uint64_t*>(shared + layout::stages * layout::stage_bytes +
                                               layout::sums_bytes);
  const weight_ring<layout> ring{shared, barriers, barriers + layout::stages};
  release_successor();
  if (threadIdx.x == 0) {
    for (int32_t i = 0; i < layout::stages; ++i) {
      barrier_init(&ring.full[i], 1);
      barrier_init(&ring.empty[i], consumer_warps);
    }
    fence_barrier_init();
  }
  __syncthreads();
  if (threadIdx.x >= consumer_threads) {
    produce(ring, pointers, shape);
    wait_for_predecessor();
  } else {
    wait_for_predecessor();
    consume<row_halves, column_tiles, Output>(ring, sums, pointers, shape);
  }
}

template <int32_t row_halves, int32_t column_tiles, class Output>
void launch_tiles(const skinny_pointers& pointers, const skinny_shape& shape,
                  const launch_context& on) {
  using layout = skinny_layout<row_halves, column_tiles>;
  const auto kernel = skinny_linear_kernel<row_halves, column_tiles, Output>;
  allow_shared_memory("skinny_linear", kernel, layout::shared_bytes);
  launch_kernel("skinny_linear", kernel,
                static_cast<uint32_t>(std::min(on.num_sms, shape.tiles)), block_threads,
                layout::shared_bytes, on, pointers, shape);
}

template <int32_t column_tiles, class Output>
void launch_columns(const skinny_pointers& pointers, const skinny_shape& shape,
                    const launch_context& on) {
  if (shape.tile_rows <= 16)
    launch_tiles<2, column_tiles, Output>(pointers, shape, on);
  else
    launch_tiles<3, column_tiles, Output>(pointers, shape, on);
}

static_assert(skinny_rows_max == 32);

/// Weight rows per tile, as measured on 132 multiprocessors. Where one tile each is enough, larger ones leave
/// some multiprocessors to the next kernel at once. The product before attention (its result alone is bf16
/// and not gated) ends early on some, where the blocks of attention that have work then stand ready: worth
/// it if it is short, or if that kernel has the most to do beforehand (one row: it norms and rotates).
int32_t tile_rows_of(const skinny_linear_arguments& a, int32_t num_sms) {
  constexpr int32_t many_inputs = 32, usual = 16, single = 20, before_attention = 18;
  if (a.input.rows() > 16) return many_inputs;
  if (a.gated) return usual;
  if (a.weight.rows() <= int64_t{single} * num_sms) return single;
  const bool early = a.input.rows() == 1 || a.weight.rows() <= int64_t{2} * usual * num_sms;
  return a.output.type == dtype::bf16 && early ? before_attention : usual;
}

skinny_shape shape_of(const skinny_linear_arguments& a, const launch_context& on) {
  const auto out = static_cast<int32_t>(a.weight.rows());
  const int32_t tile_rows = tile_rows_of(a, on.num_sms);
  return {static_cast<int32_t>(a.input.rows()),
          static_cast<int32_t>(a.weight.width()),
          out,
          a.gated ? out / 2 : 0,
          tile_rows,
          (out + tile_rows - 1) / tile_rows};
}

template <class Output>
void launch_rows(const skinny_linear_arguments& a, const launch_context& on) {
  const skinny_pointers pointers{a.weight.as<const bf16>(),
                                 a.weight.row_stride,
                                 matrix_of<const bf16>(a.input),
                                 a.bias.rank == 0 ? nullptr : a.bias.as<const bf16>(),
                                 a.output.data,
                                 a.output.row_stride};
  const skinny_shape shape = shape_of(a, on);
  if (shape.rows <= 8)
    launch_columns<1, Output>(pointers, shape, on);
  else if (shape.rows <= 16)
    launch_columns<2, Output>(pointers, shape, on);
  else
    launch_tiles<4, 4, Output>(pointers, shape, on);
}

}  // namespace

bool takes_skinny_linear(const skinny_linear_arguments& a) {
  const bool shapes = a.input.rows() <= skinny_rows_max && a.weight.width() % step == 0 &&
                      (!a.gated || a.weight.rows() % 32 == 0);
  return shapes && a.weight.type == dtype::bf16 && a.input.type == dtype::bf16 &&
         in_vectors(a.weight) && in_vectors(a.input);
}

void launch_skinny_linear(const skinny_linear_arguments& a, const launch_context& on) {
  if (a.output.type == dtype::f32)
    launch_rows<float>(a, on);
  else
    launch_rows<bf16>(a, on);
}

}  // namespace troupe::gpu::cuda
