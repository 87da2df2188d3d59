#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/transpose.hpp"

namespace troupe::gpu::cuda {
namespace {

constexpr int32_t tile = 32;
constexpr int32_t tile_rows = 8;  // of a block's threads

/// One block per square tile: rows are read, and written, as whole lines of 32 values.
template <class Element>
__global__ void transpose_kernel(Element* target, int64_t target_stride, const Element* source,
                                 int64_t rows, int64_t columns) {
  __shared__ Element values[tile][tile + 1];  // columns in different banks
  release_successor();
  wait_for_predecessor();
  const int64_t first_row = int64_t{blockIdx.y} * tile, first_column = int64_t{blockIdx.x} * tile;
  const auto across = static_cast<int32_t>(threadIdx.x);
  for (auto down = static_cast<int32_t>(threadIdx.y); down < tile; down += tile_rows)
    if (first_row + down < rows && first_column + across < columns)
      values[down][across] = source[(first_row + down) * columns + first_column + across];
  __syncthreads();
  for (auto down = static_cast<int32_t>(threadIdx.y); down < tile; down += tile_rows)
    if (first_column + down < columns && first_row + across < rows)
      target[(first_column + down) * target_stride + first_row + across] = values[across][down];
}

template <class Element>
void launch_elements(const transpose_arguments& a, const launch_context& on) {
  const int64_t columns = a.target.rows(), rows = a.target.width();
  const dim3 grid(static_cast<uint32_t>((columns + tile - 1) / tile),
                  static_cast<uint32_t>((rows + tile - 1) / tile));
  launch_kernel("transpose", transpose_kernel<Element>, grid, dim3(tile, tile_rows), 0, on,
                a.target.as<Element>(), a.target.row_stride,
                reinterpret_cast<const Element*>(a.source), rows, columns);
}

}  // namespace

void launch_transpose(const transpose_arguments& arguments, const launch_context& on) {
  if (size_of(arguments.target.type) == sizeof(uint32_t))
    return launch_elements<uint32_t>(arguments, on);
  launch_elements<uint16_t>(arguments, on);
}

}  // namespace troupe::gpu::cuda
