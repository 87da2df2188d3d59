#include "gpu/cuda/kernels/experts.hpp"

#include "gpu/cuda/kernels/expert_routing.cuh"
#include "gpu/cuda/kernels/expert_stream.cuh"
#include "gpu/cuda/kernels/expert_tiles.cuh"
#include "gpu/error.hpp"

#include <algorithm>
#include <string>

/// Five kernels: routing, lists of members, the product with gate and up, the product with down,
/// and the weighted sum. The products exist for few rows (weights are streamed), for many (tiles),
/// and for any type and size (plain loops).
namespace troupe::gpu::cuda {
namespace {

/// Up to this many rows, reading weights outweighs multiplying.
constexpr int64_t stream_rows_max = 128;

constexpr int32_t plain_threads = 256;
constexpr int32_t plain_warps = plain_threads / warp_size;

/// A block per pair, a warp per output.
template <class T, bool is_gated>
__global__ void __launch_bounds__(plain_threads)
    plain_product_kernel(expert_product<T> product, expert_table table, expert_sizes sizes,
                         const int32_t* live_rows) {
  release_successor();
  wait_for_predecessor();
  const auto pair = static_cast<int32_t>(blockIdx.x);
  if (pair >= live(live_rows, sizes.capacity) * sizes.top_k) return;
  const int32_t expert = table.experts[pair];
  const auto lane = static_cast<int32_t>(threadIdx.x % warp_size);
  const T* input = product.input_row(pair);
  const auto dot = [&](int32_t row) {
    const T* weight = product.weight_row(expert, row);
    float sum = 0;
    for (int32_t i = lane; i < product.in; i += warp_size)
      sum = fmaf(to_f32(weight[i]), to_f32(input[i]), sum);
    return warp_sum(sum);
  };
  const int32_t outputs = is_gated ? product.out / 2 : product.out;
  for (auto i = static_cast<int32_t>(threadIdx.x / warp_size); i < outputs; i += plain_warps) {
    const float first = dot(i);
    if constexpr (is_gated) {
      const float up = dot(outputs + i);
      if (lane == 0) product.gated_row(pair)[i] = from_f32<T>(gated<T>(first, up));
    } else if (lane == 0) {
      product.sum_row(pair)[i] = first;
    }
  }
}

uint32_t blocks_for(int64_t work, int64_t per_block) {
  return static_cast<uint32_t>((work + per_block - 1) / per_block);
}

/// What the launches of one mixture share.
struct mixture {
  expert_sizes sizes;
  expert_table table;
  const int32_t* live;
  std::byte* activated;  // T [pairs, width]
  float* sums;           // [pairs, hidden]
};

/// Cuts working memory into aligned pieces; from null it only counts.
class cutter {
 public:
  explicit cutter(std::byte* memory) : memory_(memory) {}
  template <class Element>
  Element* take(int64_t count, int64_t element_bytes = sizeof(Element)) {
    constexpr int64_t alignment = 256;
    std::byte* piece = memory_ == nullptr ? nullptr : memory_ + bytes_;
    bytes_ += (count * element_bytes + alignment - 1) / alignment * alignment;
    return reinterpret_cast<Element*>(piece);
  }
  int64_t bytes() const { return bytes_; }

 private:
  std::byte* memory_;
  int64_t bytes_ = 0;
};

mixture cut(cutter& memory, const mixture_of_experts_shape& shape, const int32_t* live) {
  mixture m{};
  m.sizes = {static_cast<int32_t>(shape.rows), static_cast<int32_t>(shape.hidden_size),
             static_cast<int32_t>(shape.expert_width), shape.num_experts, shape.top_k};
  m.live = live;
  const int64_t pairs = m.sizes.pairs(), experts = m.sizes.num_experts;
  m.table.experts = memory.take<int32_t>(pairs);
  m.table.weights = memory.take<float>(pairs);
  m.table.members = memory.take<int32_t>(pairs);
  m.table.offsets = memory.take<int32_t>(experts + 1);
  m.table.tile_starts = memory.take<int32_t>(experts + 1);
  m.table.active = memory.take<int32_t>(experts);
  m.table.num_active = memory.take<int32_t>(1);
  m.activated = memory.take<std::byte>(pairs * m.sizes.width, size_of(shape.activation));
  m.sums = memory.take<float>(pairs * m.sizes.hidden);
  return m;
}

void expect_sizes(const expert_sizes& sizes) {
  if (sizes.num_experts > routed_experts_max || sizes.top_k > top_k_max)
    throw error("a mixture of " + std::to_string(sizes.num_experts) + " experts, " +
                std::to_string(sizes.top_k) + " per row, expected at most " +
                std::to_string(routed_experts_max) + " and " + std::to_string(top_k_max));
}

template <int32_t column_tiles, bool is_gated>
void launch_stream(const mixture& m, const expert_product<bf16>& product,
                   const launch_context& on) {
  constexpr int32_t split = is_gated ? 4 : 2;
  using layout = stream_layout<column_tiles, split, is_gated>;
  const int32_t outputs = is_gated ? product.out / 2 : product.out;
  const int64_t active_max = std::min<int64_t>(m.sizes.num_experts, m.sizes.pairs());
  const dim3 grid(blocks_for(outputs, layout::outputs_per_block),
                  static_cast<uint32_t>(active_max));
  launch_kernel("expert_stream", expert_stream_kernel<column_tiles, split, is_gated>, grid,
                stream_threads, 0, on, product, m.table);
}

template <bool is_gated>
void launch_tiles(const mixture& m, const expert_product<bf16>& product, const launch_context& on) {
  const auto kernel = expert_tiles_kernel<is_gated>;
  const int64_t tiles_max =
      std::min<int64_t>(m.sizes.pairs(), m.sizes.num_experts + m.sizes.pairs() / tile_rows);
  const dim3 grid(blocks_for(product.out, tile_weights), static_cast<uint32_t>(tiles_max));
  allow_shared_memory("expert_tiles", kernel, tiles_shared_bytes);
  launch_kernel("expert_tiles", kernel, grid, tile_threads, tiles_shared_bytes, on, product,
                m.table, m.sizes.num_experts);
}

template <class T, bool is_gated>
void launch_product(const mixture& m, const expert_product<T>& product, bool vectors,
                    const launch_context& on) {
  if constexpr (std::is_same_v<T, bf16>) {
    const int32_t rows = m.sizes.capacity;
    if (vectors && rows <= 8) return launch_stream<1, is_gated>(m, product, on);
    if (vectors && rows <= 16) return launch_stream<2, is_gated>(m, product, on);
    if (vectors && rows <= stream_rows_max) return launch_stream<4, is_gated>(m, product, on);
    if (vectors) return launch_tiles<is_gated>(m, product, on);
  }
  launch_kernel("expert_product", plain_product_kernel<T, is_gated>,
                static_cast<uint32_t>(m.sizes.pairs()), plain_threads, 0, on, product, m.table,
                m.sizes, m.live);
}

template <class T>
void launch_mixture(const mixture& m, const mixture_of_experts_arguments& a,
                    const launch_context& on) {
  const expert_sizes& sizes = m.sizes;
  const auto rows = static_cast<uint32_t>(sizes.capacity);
  launch_kernel("route", route_kernel<T>, blocks_for(rows, route_warps), route_warps * warp_size, 0,
                on, m.table, sizes, matrix_of<const float>(a.router_logits), m.live);
  launch_kernel("list_members", list_members_kernel, static_cast<uint32_t>(sizes.num_experts),
                list_threads, 0, on, m.table, sizes, m.live);
  const bool vectors =
      in_vectors(a.input) && in_vectors(a.gate_up) && in_vectors(a.down) && sizes.width % 8 == 0;
  const expert_product<T> gate_up{matrix_of<const T>(a.input),
                                  a.gate_up.as<const T>(),
                                  m.activated,
                                  sizes.top_k,
                                  sizes.hidden,
                                  2 * sizes.width};
  launch_product<T, true>(m, gate_up, vectors, on);
  const auto* activated = reinterpret_cast<const T*>(m.activated);
  const expert_product<T> down{
      {activated, sizes.width}, a.down.as<const T>(), m.sums, 1, sizes.width, sizes.hidden};
  launch_product<T, false>(m, down, vectors, on);
  launch_kernel("combine_experts", combine_kernel,
                dim3(rows, blocks_for(sizes.hidden, combine_threads)), combine_threads, 0, on,
                matrix_of<float>(a.output), m.sums, m.table, sizes, m.live);
}

}  // namespace

mixture_of_experts_shape shape_of(const mixture_of_experts_arguments& a) {
  return {a.input.type,
          a.output.rows(),
          a.output.width(),
          a.down.width(),
          static_cast<int32_t>(a.router_logits.width()),
          a.top_k};
}

int64_t mixture_of_experts_scratch_bytes(const mixture_of_experts_shape& shape) {
  cutter memory(nullptr);
  cut(memory, shape, nullptr);
  return memory.bytes();
}

void launch_mixture_of_experts(const mixture_of_experts_arguments& a, const launch_context& on) {
  cutter memory(a.scratch);
  const mixture m = cut(memory, shape_of(a), a.live);
  expect_sizes(m.sizes);
  with_activation(a.input.type, [&]<class T>(T) { launch_mixture<T>(m, a, on); });
}

}  // namespace troupe::gpu::cuda
