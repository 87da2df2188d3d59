#pragma once

#include "gpu/cuda/kernels/mma.cuh"

#include <cstdint>

/// The tensor cores' instructions of a warp group (four warps, 64 rows), compute capability 9.0a.
/// Source: the PTX instruction set manual, sections on wgmma.
namespace troupe::gpu::cuda {

constexpr uint32_t chunk_bytes = 16;
constexpr int32_t chunk_values = 8;

/// A tile as an operand. `leading` and `stride` are the two distances the hardware asks for.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t leading,
                                                    uint32_t stride) {
  return uint64_t{(address & 0x3ffffU) >> 4} | uint64_t{leading >> 4} << 16 |
         uint64_t{stride >> 4} << 32;
}
/// A tile of `rows` rows (a multiple of 8) of `width` values (a multiple of 8) in shared memory, as
/// an operand of products. Address it from multiples of 1024.
///
/// Columns in panels of 64 values: a row's eight chunks of 16 bytes share a line of 128 bytes,
/// which an asynchronous copy of a line of global memory fills at once, in an order that spreads a
/// column of chunks over all banks (swizzled by 128 bytes). Copies that scatter a line run at an
/// eighth of the rate. What is left of the width, rounded up to 16 values: chunk by chunk, rows in
/// a piece.
template <int32_t rows, int32_t width>
struct operand_tile {
  static constexpr int32_t panels = width / 64;
  static constexpr int32_t panel_chunks = 8 * panels;
  static constexpr int32_t chunks = (width + 15) / 16 * 2;
  static constexpr uint32_t line_bytes = 8 * chunk_bytes;
  static constexpr uint32_t panel_bytes = rows * line_bytes;
  static constexpr uint32_t column_bytes = rows * chunk_bytes;
  static constexpr uint32_t rest_start = panels * panel_bytes;
  static constexpr uint32_t bytes = rest_start + (chunks - panel_chunks) * column_bytes;
  static constexpr uint64_t swizzle_128 = uint64_t{1} << 62;
  static_assert(rows % 64 == 0 && bytes % 1024 == 0);

  __device__ static uint32_t panel_offset(int32_t row, int32_t chunk) {
    return static_cast<uint32_t>(chunk / 8) * panel_bytes +
           static_cast<uint32_t>(row) * line_bytes +
           static_cast<uint32_t>(chunk % 8 ^ row % 8) * chunk_bytes;
  }
  __device__ static uint32_t rest_offset(int32_t row, int32_t chunk) {
    return rest_start + static_cast<uint32_t>(chunk - panel_chunks) * column_bytes +
           static_cast<uint32_t>(row) * chunk_bytes;
  }

  /// Columns [16 step, 16 step + 16) of the rows from `row` (a multiple of 8) on: sums run along a
  /// row.
  __device__ static uint64_t along_rows(uint32_t tile, int32_t row, int32_t step) {
    const int32_t chunk = 2 * step;
    if (chunk >= panel_chunks)
      return tile_descriptor(tile + rest_offset(row, chunk), column_bytes, line_bytes);
    return swizzle_128 | tile_descriptor(tile + static_cast<uint32_t>(chunk / 8) * panel_bytes +
                                             static_cast<uint32_t>(row) * line_bytes +
                                             static_cast<uint32_t>(chunk % 8) * chunk_bytes,
                                         chunk_bytes, 8 * line_bytes);
  }
  /// Rows [16 step, 16 step + 16) of all panels: sums run down a column.
  __device__ static uint64_t down_panels(uint32_t tile, int32_t step) {
    return swizzle_128 | tile_descriptor(tile + static_cast<uint32_t>(step) * 16 * line_bytes,
                                         panel_bytes, 8 * line_bytes);
  }
  /// The same of the columns past the panels.
  __device__ static uint64_t down_rest(uint32_t tile, int32_t step) {
    return tile_descriptor(tile + rest_offset(16 * step, panel_chunks), line_bytes, column_bytes);
  }
};

/// Before the first product, and whenever registers it uses were written.
__device__ __forceinline__ void warpgroup_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void warpgroup_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int32_t pending>
__device__ __forceinline__ void warpgroup_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}
template <int32_t count>
__device__ __forceinline__ void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(count));
}
template <int32_t count>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(count));
}

#define TROUPE_F4(d, i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TROUPE_F16(d, i) \
  TROUPE_F4(d, i), TROUPE_F4(d, i + 4), TROUPE_F4(d, i + 8), TROUPE_F4(d, i + 12)
#define TROUPE_F32(d, i) TROUPE_F16(d, i), TROUPE_F16(d, i + 16)
#define TROUPE_R32                                                                        \
  "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23" \
  ",%24,%25,%26,%27,%28,%29,%30,%31"
#define TROUPE_R64                                                                               \
  TROUPE_R32                                                                                     \
  ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54" \
  ",%55,%56,%57,%58,%59,%60,%61,%62,%63"

/// sum [64, 128] = a [64, 16] * b [16, 128], plus the old sum if `add`; both operands are rows of
/// tiles.
__device__ __forceinline__ void wgmma_rows(float (&sum)[64], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{\n"
      ".reg .pred add;\n"
      "setp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" TROUPE_R64
      "}, %64, %65, add, 1, 1, 0, 0;\n"
      "}\n"
      : TROUPE_F32(sum, 0), TROUPE_F32(sum, 32)
      : "l"(a), "l"(b), "r"(static_cast<int32_t>(add)));
}

/// sum [64, N] += a [64, 16] * b [16, N], N = 2 * registers; `a` in registers, as the sums of a
/// product lie (rounded to bf16), `b` columns of a tile.
__device__ __forceinline__ void wgmma_columns(float (&sum)[32], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" TROUPE_R32
               "}, {%32,%33,%34,%35}, %36, 1, 1, 1, 1;\n"
               : TROUPE_F32(sum, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_columns(float (&sum)[8], const uint32_t* a, uint64_t b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n16k16.f32.bf16.bf16 {%0,%1,%2,%3,%4,%5,%6,%7}, "
      "{%8,%9,%10,%11}, %12, 1, 1, 1, 1;\n"
      : TROUPE_F4(sum, 0), TROUPE_F4(sum, 4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}
__device__ __forceinline__ void wgmma_columns(float (&sum)[64], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" TROUPE_R64
               "}, {%64,%65,%66,%67}, %68, 1, 1, 1, 1;\n"
               : TROUPE_F32(sum, 0), TROUPE_F32(sum, 32)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef TROUPE_F4
#undef TROUPE_F16
#undef TROUPE_F32
#undef TROUPE_R32
#undef TROUPE_R64

}  // namespace troupe::gpu::cuda
