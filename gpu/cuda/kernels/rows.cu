#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/rows.hpp"
#include "gpu/cuda/kernels/typed.cuh"

#include <algorithm>

namespace troupe::gpu::cuda {
namespace {

constexpr int32_t block_threads = 256;
constexpr int32_t warps_per_block = block_threads / warp_size;

uint32_t blocks_for(int64_t work, int64_t per_block) {
  return static_cast<uint32_t>(std::max<int64_t>(1, (work + per_block - 1) / per_block));
}

/// Copies one row with a whole block or warp: `lane` of `lanes`.
template <class T>
__device__ void copy_row(T* to, const T* from, int32_t width, int32_t lane, int32_t lanes) {
  constexpr int32_t size = vector16<T>::size;
  const bool aligned = width % size == 0 && reinterpret_cast<uintptr_t>(to) % 16 == 0 &&
                       reinterpret_cast<uintptr_t>(from) % 16 == 0;
  if (aligned)
    for (int32_t i = lane * size; i < width; i += lanes * size) store16(to + i, load16(from + i));
  else
    for (int32_t i = lane; i < width; i += lanes) to[i] = from[i];
}

struct embed_ids {
  int32_t* resolved;
  const int32_t* given;
  const int32_t* sampled;
  const int32_t* row_map;
  int32_t num_sampled;
};

/// One block per token.
template <class T>
__global__ void embed_kernel(matrix<T> output, matrix<const T> table, matrix<const T> pool,
                             embed_ids ids, int32_t width, int32_t vocab, int32_t pool_rows,
                             int32_t capacity, const int32_t* live_tokens) {
  release_successor();
  wait_for_predecessor();
  const int32_t token = static_cast<int32_t>(blockIdx.x);
  if (token >= live(live_tokens, capacity)) return;
  const int32_t visual = ids.row_map[token];
  int32_t id = ids.given[token];
  if (id < 0) {
    const int64_t row = -1 - static_cast<int64_t>(id);
    id = row < ids.num_sampled ? ids.sampled[row] : 0;
  }
  if (threadIdx.x == 0) ids.resolved[token] = id;
  const bool picture = visual >= 0 && visual < pool_rows;
  const T* source = picture ? pool.row(visual) : table.row(id >= 0 && id < vocab ? id : 0);
  copy_row(output.row(token), source, width, static_cast<int32_t>(threadIdx.x), block_threads);
}

/// One warp per row. `scatter`: the index says where a row goes, not where it comes from.
template <class T, bool scatter>
__global__ void copy_rows_kernel(matrix<T> output, matrix<const T> input, const int32_t* index,
                                 int32_t width, int32_t indexed_rows, int32_t capacity,
                                 const int32_t* live_rows) {
  release_successor();
  wait_for_predecessor();
  const int32_t row = static_cast<int32_t>(blockIdx.x * warps_per_block + threadIdx.x / warp_size);
  if (row >= live(live_rows, capacity)) return;
  const int32_t place = index[row];
  const bool inside = place >= 0 && place < indexed_rows;
  const int32_t lane = static_cast<int32_t>(threadIdx.x % warp_size);
  if constexpr (scatter) {
    if (inside) copy_row(output.row(place), input.row(row), width, lane, warp_size);
  } else {
    copy_row(output.row(row), input.row(inside ? place : 0), width, lane, warp_size);
  }
}

/// One block per row.
template <class T>
__global__ void rms_norm_kernel(matrix<T> output, matrix<const T> input, const T* weight,
                                int32_t width, float epsilon, int32_t capacity,
                                const int32_t* live_rows) {
  __shared__ float sums[warps_per_block];
  release_successor();
  wait_for_predecessor();
  const int32_t row = static_cast<int32_t>(blockIdx.x);
  if (row >= live(live_rows, capacity)) return;
  const T* from = input.row(row);
  float squares = 0;
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += block_threads) {
    const float x = to_f32(from[i]);
    squares += x * x;
  }
  const float total = block_sum(squares, sums);
  const float scale = rsqrtf(total / static_cast<float>(width) + epsilon);
  T* to = output.row(row);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += block_threads)
    to[i] = from_f32<T>(to_f32(weight[i]) * rounded<T>(to_f32(from[i]) * scale));
}

/// One warp per row: the second and third pass find the row in the first-level cache.
template <class T>
__global__ void layer_norm_kernel(matrix<T> output, matrix<const T> input, const T* weight,
                                  const T* bias, int32_t width, float epsilon, int32_t capacity,
                                  const int32_t* live_rows) {
  constexpr int32_t size = vector16<T>::size;
  release_successor();
  wait_for_predecessor();
  const int32_t row = static_cast<int32_t>(blockIdx.x * warps_per_block + threadIdx.x / warp_size);
  if (row >= live(live_rows, capacity)) return;
  const int32_t first = static_cast<int32_t>(threadIdx.x % warp_size) * size;
  constexpr int32_t step = warp_size * size;
  const T* from = input.row(row);
  float sum = 0;
  for (int32_t i = first; i < width; i += step) {
    const auto x = load16(from + i);
    for (int32_t j = 0; j < size; ++j) sum += x.get(j);
  }
  const float mean = warp_sum(sum) / static_cast<float>(width);
  float squares = 0;
  for (int32_t i = first; i < width; i += step) {
    const auto x = load16(from + i);
    for (int32_t j = 0; j < size; ++j) squares += (x.get(j) - mean) * (x.get(j) - mean);
  }
  const float scale = rsqrtf(warp_sum(squares) / static_cast<float>(width) + epsilon);
  T* to = output.row(row);
  for (int32_t i = first; i < width; i += step) {
    const auto x = load16(from + i), w = load16(weight + i), b = load16(bias + i);
    vector16<T> y;
    for (int32_t j = 0; j < size; ++j) y.set(j, (x.get(j) - mean) * scale * w.get(j) + b.get(j));
    store16(to + i, y);
  }
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0F / (1.0F + __expf(-x)); }

template <class T, row_function function>
__device__ __forceinline__ float apply(float x, float y) {
  if constexpr (function == row_function::silu_and_mul) {
    return rounded<T>(x * sigmoid(x)) * y;
  } else if constexpr (function == row_function::gelu_tanh) {
    // 0.5 (1 + tanh(u)) = sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
    constexpr float twice_sqrt_2_over_pi = 1.59576912160573F;
    return x * sigmoid(twice_sqrt_2_over_pi * (x + 0.044715F * x * x * x));
  } else if constexpr (function == row_function::gelu_erf) {
    constexpr float inverse_sqrt_2 = 0.707106781186548F;
    return 0.5F * x * (1.0F + erff(x * inverse_sqrt_2));
  } else {
    return x + y;
  }
}

/// Each thread makes one vector of the output; `second` is up for silu_and_mul, the addend for add.
template <class T, row_function function>
__global__ void elementwise_kernel(matrix<T> output, matrix<const T> first, matrix<const T> second,
                                   int32_t vectors, int32_t capacity, const int32_t* live_rows) {
  constexpr bool binary = function == row_function::silu_and_mul || function == row_function::add;
  constexpr int32_t size = vector16<T>::size;
  release_successor();
  wait_for_predecessor();
  const int64_t total = static_cast<int64_t>(live(live_rows, capacity)) * vectors;
  const int64_t step = static_cast<int64_t>(gridDim.x) * block_threads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * block_threads + threadIdx.x; i < total;
       i += step) {
    const int64_t row = i / vectors, column = i % vectors * size;
    const auto x = load16(first.row(row) + column);
    vector16<T> y = x;
    if constexpr (binary) y = load16(second.row(row) + column);
    vector16<T> result;
#pragma unroll
    for (int32_t j = 0; j < size; ++j) result.set(j, apply<T, function>(x.get(j), y.get(j)));
    store16(output.row(row) + column, result);
  }
}

template <class T, row_function function>
void launch_function(const elementwise_arguments& a, const launch_context& on) {
  const auto input = matrix_of<const T>(a.input);
  auto first = input, second = input;
  if (function == row_function::silu_and_mul) second.data += a.output.width();
  if (function == row_function::add) first = matrix_of<const T>(a.output);
  const auto capacity = static_cast<int32_t>(a.output.rows());
  const auto vectors = static_cast<int32_t>(a.output.width() / vector16<T>::size);
  const uint32_t most = static_cast<uint32_t>(on.num_sms) * 16;
  launch_kernel("elementwise", elementwise_kernel<T, function>,
                std::min(most, blocks_for(int64_t{capacity} * vectors, block_threads)),
                block_threads, 0, on, matrix_of<T>(a.output), first, second, vectors, capacity,
                a.live);
}

}  // namespace

void launch_embed(const embed_arguments& a, const launch_context& on) {
  with_activation(a.output.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.output.rows());
    const embed_ids ids{a.resolved_ids.as<int32_t>(), a.token_ids.as<const int32_t>(),
                        a.sampled.as<const int32_t>(), a.row_map.as<const int32_t>(),
                        static_cast<int32_t>(a.sampled.elements())};
    launch_kernel("embed", embed_kernel<T>, static_cast<uint32_t>(capacity), block_threads, 0, on,
                  matrix_of<T>(a.output), matrix_of<const T>(a.table),
                  matrix_of<const T>(a.pool_level), ids, static_cast<int32_t>(a.output.width()),
                  static_cast<int32_t>(a.table.rows()), static_cast<int32_t>(a.pool_level.rows()),
                  capacity, a.live);
  });
}

void launch_gather_rows(const row_copy_arguments& a, const launch_context& on) {
  with_activation(a.output.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.output.rows());
    launch_kernel("gather_rows", copy_rows_kernel<T, false>, blocks_for(capacity, warps_per_block),
                  block_threads, 0, on, matrix_of<T>(a.output), matrix_of<const T>(a.input),
                  a.index.as<const int32_t>(), static_cast<int32_t>(a.output.width()),
                  static_cast<int32_t>(a.input.rows()), capacity, a.live);
  });
}

void launch_scatter_rows(const row_copy_arguments& a, const launch_context& on) {
  with_activation(a.output.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.input.rows());
    launch_kernel("scatter_rows", copy_rows_kernel<T, true>, blocks_for(capacity, warps_per_block),
                  block_threads, 0, on, matrix_of<T>(a.output), matrix_of<const T>(a.input),
                  a.index.as<const int32_t>(), static_cast<int32_t>(a.output.width()),
                  static_cast<int32_t>(a.output.rows()), capacity, a.live);
  });
}

void launch_rms_norm(const norm_arguments& a, const launch_context& on) {
  with_activation(a.output.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.output.rows());
    launch_kernel("rms_norm", rms_norm_kernel<T>, static_cast<uint32_t>(capacity), block_threads, 0,
                  on, matrix_of<T>(a.output), matrix_of<const T>(a.input), a.weight.as<const T>(),
                  static_cast<int32_t>(a.output.width()), a.epsilon, capacity, a.live);
  });
}

void launch_layer_norm(const norm_arguments& a, const launch_context& on) {
  with_activation(a.output.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.output.rows());
    launch_kernel("layer_norm", layer_norm_kernel<T>, blocks_for(capacity, warps_per_block),
                  block_threads, 0, on, matrix_of<T>(a.output), matrix_of<const T>(a.input),
                  a.weight.as<const T>(), a.bias.as<const T>(),
                  static_cast<int32_t>(a.output.width()), a.epsilon, capacity, a.live);
  });
}

void launch_elementwise(const elementwise_arguments& a, const launch_context& on) {
  with_activation(a.output.type, [&]<class T>(T) {
    switch (a.function) {
      case row_function::silu_and_mul:
        return launch_function<T, row_function::silu_and_mul>(a, on);
      case row_function::gelu_tanh:
        return launch_function<T, row_function::gelu_tanh>(a, on);
      case row_function::gelu_erf:
        return launch_function<T, row_function::gelu_erf>(a, on);
      case row_function::add:
        return launch_function<T, row_function::add>(a, on);
    }
  });
}

}  // namespace troupe::gpu::cuda
