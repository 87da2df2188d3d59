#pragma once

#include "gpu/cuda/kernels/mma.cuh"

#include <cstdint>

/// The tensor cores' instructions of a warp group (four warps, 64 rows), compute capability 9.0a.
/// Source: the PTX instruction set manual, sections on wgmma.
///
/// Tiles lie in shared memory as columns of 16-byte chunks: chunk c of row r, eight values, at
/// c * chunk_stride + r * 16. With chunk_stride an odd multiple of 16, both a row's chunks and a
/// column's rows fall into different banks, and any width is a whole number of chunks. The unit of
/// the hardware, 8 rows of one chunk, is 128 bytes in a piece.
namespace troupe::gpu::cuda {

constexpr uint32_t chunk_bytes = 16;
constexpr int32_t chunk_values = 8;

constexpr uint32_t chunk_stride(int32_t rows) {
  return static_cast<uint32_t>(rows) * 16 + 16;
}

/// A tile as an operand. `leading` and `stride` are the two distances the hardware asks for.
__device__ __forceinline__ uint64_t tile_descriptor(uint32_t address, uint32_t leading,
                                                    uint32_t stride) {
  return uint64_t{(address & 0x3ffffU) >> 4} | uint64_t{leading >> 4} << 16 |
         uint64_t{stride >> 4} << 32;
}
/// Rows of the product's operand are rows of the tile: sums run along a row.
__device__ __forceinline__ uint64_t row_operand(uint32_t address, uint32_t chunks) {
  return tile_descriptor(address, chunks, 8 * chunk_bytes);
}
/// Rows of the product's operand are columns of the tile: sums run down a column.
__device__ __forceinline__ uint64_t column_operand(uint32_t address, uint32_t chunks) {
  return tile_descriptor(address, 8 * chunk_bytes, chunks);
}

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
/// Makes this thread's writes to shared memory visible to products.
__device__ __forceinline__ void fence_shared_for_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
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
__device__ __forceinline__ void wgmma_columns(float (&sum)[36], const uint32_t* a, uint64_t b) {
  asm volatile("wgmma.mma_async.sync.aligned.m64n72k16.f32.bf16.bf16 {" TROUPE_R32
               ",%32,%33,%34,%35}, {%36,%37,%38,%39}, %40, 1, 1, 1, 1;\n"
               : TROUPE_F32(sum, 0), TROUPE_F4(sum, 32)
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
