#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

/// Devices made safe: memory that never moves, graphs that know what they baked, and the operations
/// a network is written against. Knows tensors, never models, requests or actors.
namespace troupe::gpu {

enum class dtype : uint8_t { f32, bf16, i32, i64, u8 };

constexpr int64_t size_of(dtype type) {
  switch (type) {
    case dtype::f32: return 4;
    case dtype::bf16: return 2;
    case dtype::i32: return 4;
    case dtype::i64: return 8;
    case dtype::u8: return 1;
  }
  return 0;
}

/// A bfloat16 value as it lies in memory.
struct bfloat16 {
  uint16_t bits;
};

/// Pointer, dtype and shape of a dense row-major tensor of one to four dimensions whose rows (the
/// last dimension) are contiguous. `row_stride` is the distance of two neighbouring rows in elements,
/// so that a view can cut columns out of a wider matrix. Copyable, owns nothing.
struct tensor_view {
  std::byte* data = nullptr;
  dtype type = dtype::f32;
  int32_t rank = 0;
  std::array<int64_t, 4> shape{1, 1, 1, 1};  // unused leading dimensions do not exist: rank says
  int64_t row_stride = 0;

  int64_t width() const { return rank == 0 ? 0 : shape[static_cast<size_t>(rank - 1)]; }
  int64_t rows() const {
    int64_t count = rank == 0 ? 0 : 1;
    for (int32_t i = 0; i + 1 < rank; ++i) count *= shape[static_cast<size_t>(i)];
    return count;
  }
  int64_t elements() const { return rows() * width(); }
  bool contiguous() const { return row_stride == width() || rows() <= 1; }
  /// Bytes from the first to one past the last element, gaps between rows included.
  int64_t span_bytes() const {
    return rows() == 0 ? 0 : ((rows() - 1) * row_stride + width()) * size_of(type);
  }

  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data);
  }

  /// Rows [first, first + count) of a view of rank 2.
  tensor_view slice_rows(int64_t first, int64_t count) const {
    tensor_view part = *this;
    part.data += first * row_stride * size_of(type);
    part.shape[0] = count;
    return part;
  }
  /// Columns [first, first + count) of a view of rank 2.
  tensor_view slice_columns(int64_t first, int64_t count) const {
    tensor_view part = *this;
    part.data += first * size_of(type);
    part.shape[1] = count;
    return part;
  }
  /// Element `index` of the first dimension: a view of one dimension less.
  tensor_view at(int64_t index) const {
    tensor_view part = *this;
    int64_t step = row_stride;
    for (int32_t i = 1; i + 1 < rank; ++i) step *= shape[static_cast<size_t>(i)];
    part.data += index * step * size_of(type);
    part.rank = rank - 1;
    for (int32_t i = 0; i + 1 < rank; ++i)
      part.shape[static_cast<size_t>(i)] = shape[static_cast<size_t>(i + 1)];
    part.shape[static_cast<size_t>(rank - 1)] = 1;
    return part;
  }
};

inline tensor_view make_view(void* data, dtype type, int64_t n) {
  return {static_cast<std::byte*>(data), type, 1, {n, 1, 1, 1}, n};
}
inline tensor_view make_view(void* data, dtype type, int64_t rows, int64_t width) {
  return {static_cast<std::byte*>(data), type, 2, {rows, width, 1, 1}, width};
}
inline tensor_view make_view(void* data, dtype type, int64_t a, int64_t b, int64_t c) {
  return {static_cast<std::byte*>(data), type, 3, {a, b, c, 1}, c};
}
inline tensor_view make_view(void* data, dtype type, int64_t a, int64_t b, int64_t c, int64_t d) {
  return {static_cast<std::byte*>(data), type, 4, {a, b, c, d}, d};
}

}  // namespace troupe::gpu
