#pragma once

#include "gpu/cpu/kernels.hpp"

#include <immintrin.h>

/// A few rows times a packed weight, which is streamed from memory once. Every output has one
/// accumulator, whatever the number of rows: a row's bits do not depend on the rows beside it.
namespace troupe::gpu::cpu::avx512_bf16 {

// Outputs of a block in vectors; with so many rows at once the sums fill 24 of 32 registers.
inline constexpr int block_vectors = few_rows_block / 16;
inline constexpr int rows_at_once_max = 6;
// How far ahead of the sums the weights are fetched: hides the latency of memory at its full rate.
inline constexpr int64_t prefetch_bytes = 4096;

/// The `step`th inputs of a row, in every lane, and the weights that meet them.
inline __m512 broadcast_input(const float* input) {
  return _mm512_set1_ps(*input);
}
inline __m512bh broadcast_input(const bfloat16* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(bits));
}
/// The last input of an odd number, with a zero in place of its neighbour.
inline __m512bh broadcast_last(const bfloat16* input) {
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(input->bits));
}
inline __m512 load_weights(const float* from) {
  return _mm512_loadu_ps(from);
}
inline __m512bh load_weights(const bfloat16* from) {
  return reinterpret_cast<__m512bh>(_mm512_loadu_si512(from));
}
inline __m512 multiply_add(__m512 sum, __m512 a, __m512 b) {
  return _mm512_fmadd_ps(a, b, sum);
}
inline __m512 multiply_add(__m512 sum, __m512bh a, __m512bh b) {
  return _mm512_dpbf16_ps(sum, a, b);
}

/// Inputs that one multiplication takes per lane.
template <class T>
inline constexpr int64_t inputs_at_once = static_cast<int64_t>(sizeof(float) / sizeof(T));
/// Elements of a vector of weights.
template <class T>
inline constexpr int64_t vector_elements = static_cast<int64_t>(sizeof(__m512) / sizeof(T));

/// Inputs [first, last) of some rows.
struct input_part {
  int64_t first;
  int64_t last;
};

using block_sums = float[few_rows_max][few_rows_block];

template <int num_rows, class T, class Input>
inline __attribute__((always_inline)) void add_products(__m512 (&sums)[num_rows][block_vectors],
                                                        const T* weights, const Input& input_of) {
  for (int row = 0; row < num_rows; ++row) {
    const auto input = input_of(row);
    for (int i = 0; i < block_vectors; ++i)
      sums[row][i] =
          multiply_add(sums[row][i], input, load_weights(weights + i * vector_elements<T>));
  }
}

/// totals += inputs of the part * weights, for `num_rows` rows from `row` on.
template <int num_rows, class T>
void add_part(block_sums& totals, const few_rows_arguments<T>& a, const T* weights, int64_t row,
              input_part part) {
  constexpr int64_t at_once = inputs_at_once<T>;
  __m512 sums[num_rows][block_vectors];
  for (auto& of_row : sums)
    for (auto& sum : of_row) sum = _mm512_setzero_ps();
  const T* inputs = a.input.data + row * a.input.stride;
  int64_t i = part.first;
  for (; i + at_once <= part.last; i += at_once) {
    const T* step = weights + i * few_rows_block;
    if (row == 0)  // later rows find the part in the cache
      for (int line = 0; line < block_vectors; ++line)
        _mm_prefetch(
            reinterpret_cast<const char*>(step + line * vector_elements<T>) + prefetch_bytes,
            _MM_HINT_T0);
    add_products(
        sums, step, [&](int r) __attribute__((always_inline)) {
          return broadcast_input(inputs + r * a.input.stride + i);
        });
  }
  if constexpr (at_once > 1)
    if (i < part.last)
      add_products(
          sums, weights + i * few_rows_block, [&](int r) __attribute__((always_inline)) {
            return broadcast_last(inputs + r * a.input.stride + i);
          });
  for (int r = 0; r < num_rows; ++r)
    for (int v = 0; v < block_vectors; ++v) {
      float* total = totals[row + r] + v * 16;
      _mm512_storeu_ps(total, part.first == 0 ? sums[r][v] : _mm512_loadu_ps(total) + sums[r][v]);
    }
}

template <class T>
void add_part(block_sums& totals, const few_rows_arguments<T>& a, const T* weights,
              input_part part) {
  const int64_t groups = (a.rows + rows_at_once_max - 1) / rows_at_once_max;
  for (int64_t group = 0; group < groups; ++group) {
    const int64_t row = a.rows * group / groups;
    switch (a.rows * (group + 1) / groups - row) {
      case 1:
        add_part<1>(totals, a, weights, row, part);
        break;
      case 2:
        add_part<2>(totals, a, weights, row, part);
        break;
      case 3:
        add_part<3>(totals, a, weights, row, part);
        break;
      case 4:
        add_part<4>(totals, a, weights, row, part);
        break;
      case 5:
        add_part<5>(totals, a, weights, row, part);
        break;
      default:
        add_part<rows_at_once_max>(totals, a, weights, row, part);
        break;
    }
  }
}

/// One row of a block, the bias added, rounded to the output's dtype.
template <class T>
void store_block(const few_rows_arguments<T>& a, const float* totals, int64_t row, int64_t column) {
  for (int64_t i = 0; i < few_rows_block && column + i < a.out_features; i += 16) {
    const int64_t left = a.out_features - column - i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    __m512 sum = _mm512_loadu_ps(totals + i);
    if (a.bias != nullptr) sum += _mm512_maskz_loadu_ps(mask, a.bias + column + i);
    const int64_t place = row * a.output_stride + column + i;
    if (a.output_type == dtype::bf16)
      _mm256_mask_storeu_epi16(reinterpret_cast<bfloat16*>(a.output) + place, mask,
                               reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(sum)));
    else
      _mm512_mask_storeu_ps(reinterpret_cast<float*>(a.output) + place, mask, sum);
  }
}

template <class T>
void multiply_few_rows(const few_rows_arguments<T>& a, row_range blocks) {
  alignas(64) block_sums totals;
  for (int64_t block = blocks.first; block < blocks.last; ++block) {
    const T* weights = a.weights + block * a.block_elements;
    for (int64_t first = 0; first < a.in_features; first += a.part) {
      const int64_t last = first + a.part;
      add_part(totals, a, weights, {first, last < a.in_features ? last : a.in_features});
    }
    for (int64_t row = 0; row < a.rows; ++row)
      store_block(a, totals[row], row, block * few_rows_block);
  }
}

}  // namespace troupe::gpu::cpu::avx512_bf16
