#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/rotary.cuh"

#include <algorithm>
#include <array>
#include <cmath>

namespace troupe::gpu::cuda {
namespace {

constexpr int32_t block_threads = 256;
constexpr int32_t warps_per_block = block_threads / warp_size;
/// Block (token, part): its warps share the heads of that part.
template <class T>
__global__ void text_rope_kernel(const __grid_constant__ text_rope_kernel_arguments<T> a,
                                 int32_t capacity, const int32_t* live_tokens) {
  release_successor();
  wait_for_predecessor();
  const int32_t token = static_cast<int32_t>(blockIdx.x);
  if (token >= live(live_tokens, capacity)) return;
  const lane_angles angles = angles_of(a, token);
  const int32_t warp = static_cast<int32_t>(threadIdx.x / warp_size);
  const int32_t heads = a.q_heads + 2 * a.kv_heads;
  const int32_t step = warps_per_block * static_cast<int32_t>(gridDim.y);
  for (int32_t h = warp + warps_per_block * static_cast<int32_t>(blockIdx.y); h < heads; h += step)
    place_head(a, token, h, angles);
}

/// cos and sin of one patch's angles.
struct angle_table {
  float cosine[half_dim_max];
  float sine[half_dim_max];
};

/// Frequencies of one axis, by value: constants of the model.
struct axis_frequencies {
  float values[half_dim_max / 2];
};

axis_frequencies frequencies_of(int32_t head_dim, float theta) {
  axis_frequencies result{};
  for (int32_t j = 0; j < head_dim / 4; ++j)
    result.values[j] = 1.0F / std::pow(theta, static_cast<float>(2 * j) /
                                                  static_cast<float>(head_dim / 2));
  return result;
}

/// One block per patch: a thread per pair turns q and k.
template <class T>
__global__ void vision_rope_kernel(matrix<T> qkv, matrix<const int32_t> coordinates,
                                   axis_frequencies frequencies, int32_t num_heads, int32_t half,
                                   int32_t capacity, const int32_t* live_patches) {
  __shared__ angle_table angles;
  release_successor();
  wait_for_predecessor();
  const int32_t patch = static_cast<int32_t>(blockIdx.x), quarter = half / 2;
  if (patch >= live(live_patches, capacity)) return;
  const int32_t* place = coordinates.row(patch);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < half; i += block_threads) {
    const int32_t axis = i / quarter;
    sincosf(static_cast<float>(place[axis]) * frequencies.values[i % quarter], &angles.sine[i],
            &angles.cosine[i]);
  }
  __syncthreads();
  T* heads = qkv.row(patch);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < 2 * num_heads * half; i += block_threads) {
    T* head = heads + static_cast<int64_t>(i / half) * 2 * half;
    const int32_t pair = i % half;
    const float first = to_f32(head[pair]), second = to_f32(head[half + pair]);
    const float cosine = angles.cosine[pair], sine = angles.sine[pair];
    head[pair] = from_f32<T>(first * cosine - second * sine);
    head[half + pair] = from_f32<T>(second * cosine + first * sine);
  }
}

/// One axis of the bilinear interpolation: two neighbouring table rows and the second one's share.
struct interpolation {
  int32_t low, high;
  float share;
};

__device__ __forceinline__ interpolation interpolate(int32_t place, int32_t extent, int32_t side) {
  if (extent <= 1) return {0, 0, 0.0F};
  const float position = __fdiv_rn(__fmul_rn(static_cast<float>(place), static_cast<float>(side - 1)),
                                   static_cast<float>(extent - 1));
  const int32_t low = min(static_cast<int32_t>(position), side - 1);
  return {low, min(low + 1, side - 1), position - static_cast<float>(low)};
}

/// One block per patch.
template <class T>
__global__ void position_embedding_kernel(matrix<T> x, matrix<const T> table,
                                          matrix<const int32_t> coordinates, int32_t width,
                                          int32_t side, int32_t capacity,
                                          const int32_t* live_patches) {
  release_successor();
  wait_for_predecessor();
  const int32_t patch = static_cast<int32_t>(blockIdx.x);
  if (patch >= live(live_patches, capacity)) return;
  const int32_t* place = coordinates.row(patch);
  const interpolation vertical = interpolate(place[0], place[2], side);
  const interpolation horizontal = interpolate(place[1], place[3], side);
  const T* corners[4] = {table.row(vertical.low * side + horizontal.low),
                         table.row(vertical.low * side + horizontal.high),
                         table.row(vertical.high * side + horizontal.low),
                         table.row(vertical.high * side + horizontal.high)};
  const float weights[4] = {(1 - vertical.share) * (1 - horizontal.share),
                            (1 - vertical.share) * horizontal.share,
                            vertical.share * (1 - horizontal.share),
                            vertical.share * horizontal.share};
  T* target = x.row(patch);
  for (int32_t i = static_cast<int32_t>(threadIdx.x); i < width; i += block_threads) {
    float embedding = 0;
#pragma unroll
    for (int32_t c = 0; c < 4; ++c) embedding += weights[c] * to_f32(corners[c][i]);
    target[i] = from_f32<T>(to_f32(target[i]) + rounded<T>(embedding));
  }
}

}  // namespace

void launch_text_rope(const text_rope_arguments& a, const launch_context& on) {
  with_activation(a.qkv.type, [&]<class T>(T) {
    const auto arguments = kernel_arguments_of<T>(a);
    const auto capacity = static_cast<int32_t>(a.qkv.rows());
    const int32_t heads = arguments.q_heads + 2 * arguments.kv_heads;
    // Few tokens: one head per warp, for latency. Many: one block has all heads.
    const int32_t parts = capacity <= 64 ? (heads + warps_per_block - 1) / warps_per_block : 1;
    launch_kernel("qk_norm_rope_cache_write", text_rope_kernel<T>,
                  dim3(static_cast<uint32_t>(capacity), static_cast<uint32_t>(parts)), block_threads,
                  0, on, arguments, capacity, a.live);
  });
}

void launch_vision_rope(const vision_rope_arguments& a, const launch_context& on) {
  with_activation(a.qkv.type, [&]<class T>(T) {
    const auto head_dim = static_cast<int32_t>(a.qkv.width() / (3 * int64_t{a.num_heads}));
    const auto capacity = static_cast<int32_t>(a.qkv.rows());
    launch_kernel("vision_rope", vision_rope_kernel<T>, static_cast<uint32_t>(capacity),
                  block_threads, 0, on, matrix_of<T>(a.qkv),
                  matrix_of<const int32_t>(a.coordinates), frequencies_of(head_dim, a.theta),
                  a.num_heads, head_dim / 2, capacity, a.live);
  });
}

void launch_position_embedding(const position_embedding_arguments& a, const launch_context& on) {
  with_activation(a.x.type, [&]<class T>(T) {
    const auto capacity = static_cast<int32_t>(a.x.rows());
    launch_kernel("add_position_embedding", position_embedding_kernel<T>,
                  static_cast<uint32_t>(capacity), block_threads, 0, on, matrix_of<T>(a.x),
                  matrix_of<const T>(a.table), matrix_of<const int32_t>(a.coordinates),
                  static_cast<int32_t>(a.x.width()), a.side, capacity, a.live);
  });
}

}  // namespace troupe::gpu::cuda
