#pragma once

#include "gpu/tensor_view.hpp"

#include <cstdint>
#include <utility>

/// Vectors as wide as the instruction set this translation unit is compiled for. The kernel sources
/// are compiled once per instruction set, and everything in them lives in a namespace of that set's
/// name: nothing that was compiled for AVX-512 can be linked into the path of a smaller processor.
/// For the same reason kernels call nothing of the standard library but C functions.
#if defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)
#define TROUPE_ISA avx512
#define TROUPE_LANES 16
#elif defined(__AVX2__) && defined(__FMA__)
#define TROUPE_ISA avx2
#define TROUPE_LANES 8
#else
#define TROUPE_ISA generic
#define TROUPE_LANES 4
#endif

namespace troupe::gpu::cpu::TROUPE_ISA {

inline constexpr int64_t lanes = TROUPE_LANES;

using vfloat [[gnu::vector_size(lanes * 4)]] = float;
using vint [[gnu::vector_size(lanes * 4)]] = int32_t;
using vuint [[gnu::vector_size(lanes * 4)]] = uint32_t;
using vbfloat [[gnu::vector_size(lanes * 2)]] = uint16_t;

/// The count of a full vector as a type, so that `load(p, full{})` costs no branch.
struct full {
  constexpr operator int64_t() const { return lanes; }  // NOLINT(google-explicit-constructor)
};

inline vfloat broadcast(float value) {
  return vfloat{} + value;
}
inline vfloat select(vint mask, vfloat yes, vfloat no) {
  return mask ? yes : no;
}
inline vfloat larger(vfloat a, vfloat b) {
  return select(a > b, a, b);
}

// Memory.
inline vfloat widen(vbfloat bits) {
  return __builtin_bit_cast(vfloat, __builtin_convertvector(bits, vuint) << 16);
}

/// To nearest, ties to even; a NaN stays a quiet NaN.
inline vbfloat narrow(vfloat value) {
  const auto bits = __builtin_bit_cast(vuint, value);
  const vuint rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const vuint quiet = (bits >> 16) | 0x0040U;
  return __builtin_convertvector(value != value ? quiet : rounded, vbfloat);
}

inline vfloat load(const float* from, full) {
  vfloat value;
  __builtin_memcpy(&value, from, sizeof value);
  return value;
}
inline vfloat load(const bfloat16* from, full) {
  vbfloat bits;
  __builtin_memcpy(&bits, from, sizeof bits);
  return widen(bits);
}
/// The first `count` lanes from memory, the rest 0.
inline vfloat load(const float* from, int64_t count) {
  vfloat value{};
  __builtin_memcpy(&value, from, static_cast<size_t>(count) * sizeof(float));
  return value;
}
inline vfloat load(const bfloat16* from, int64_t count) {
  vbfloat bits{};
  __builtin_memcpy(&bits, from, static_cast<size_t>(count) * sizeof(bfloat16));
  return widen(bits);
}

inline void store(float* to, vfloat value, full) {
  __builtin_memcpy(to, &value, sizeof value);
}
inline void store(bfloat16* to, vfloat value, full) {
  const vbfloat bits = narrow(value);
  __builtin_memcpy(to, &bits, sizeof bits);
}
inline void store(float* to, vfloat value, int64_t count) {
  __builtin_memcpy(to, &value, static_cast<size_t>(count) * sizeof(float));
}
inline void store(bfloat16* to, vfloat value, int64_t count) {
  const vbfloat bits = narrow(value);
  __builtin_memcpy(to, &bits, static_cast<size_t>(count) * sizeof(bfloat16));
}

/// `value` as it would be after a store and a load.
inline vfloat round_to(const float*, vfloat value) {
  return value;
}
inline vfloat round_to(const bfloat16*, vfloat value) {
  return widen(narrow(value));
}

inline float to_scalar(float value) {
  return value;
}
inline float to_scalar(bfloat16 value) {
  return __builtin_bit_cast(float, static_cast<uint32_t>(value.bits) << 16);
}

/// Calls step(offset, count) for a row of `width` elements, count being `full` but for the tail.
template <class Step>
inline __attribute__((always_inline)) void for_vectors(int64_t width, const Step& step) {
  int64_t offset = 0;
  for (; offset + lanes <= width; offset += lanes) step(offset, full{});
  if (offset < width) step(offset, width - offset);
}

/// Loads are what limits a loop over products; left alone, compilers load a shared factor again for
/// every use.
inline __attribute__((always_inline)) void keep_in_register(vfloat& value) {
  asm("" : "+v"(value));
}

/// Calls step(0) to step(count - 1) with constants, so that arrays they index live in registers.
template <int count, class Step>
inline __attribute__((always_inline)) void unrolled(const Step& step) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (step(i), ...);
  }
  (std::make_integer_sequence<int, count>());
}

// Across lanes. Pairwise in a fixed order: a result depends on nothing but the lanes.
namespace detail {

using all_lanes = std::make_integer_sequence<int, static_cast<int>(lanes)>;

/// Lanes whose numbers differ in bit `step` change places.
template <int step, int... lane>
inline vfloat swap_lanes(vfloat value, std::integer_sequence<int, lane...>) {
  return __builtin_shufflevector(value, value, (lane ^ step)...);
}

template <int step, class Combine>
inline vfloat fold(vfloat value, const Combine& combine) {
  const vfloat folded = combine(value, swap_lanes<step>(value, all_lanes()));
  if constexpr (step == 1)
    return folded;
  else
    return fold<step / 2>(folded, combine);
}

/// Rows i and i + step of a matrix exchange the lanes that differ in bit `step`.
template <int step, int... lane>
inline void exchange_lanes(vfloat& a, vfloat& b, std::integer_sequence<int, lane...>) {
  constexpr int count = static_cast<int>(lanes);
  const vfloat low =
      __builtin_shufflevector(a, b, ((lane & step) != 0 ? count + lane - step : lane)...);
  b = __builtin_shufflevector(a, b, ((lane & step) != 0 ? count + lane : lane + step)...);
  a = low;
}

template <int step>
inline __attribute__((always_inline)) vfloat sums_from(const vfloat* vectors) {
  vfloat a, b;
  if constexpr (step == 1) {
    a = vectors[0];
    b = vectors[1];
  } else {
    a = sums_from<step / 2>(vectors);
    b = sums_from<step / 2>(vectors + step);
  }
  exchange_lanes<step>(a, b, all_lanes());
  return a + b;
}

}  // namespace detail

inline float sum(vfloat value) {
  return detail::fold<static_cast<int>(lanes) / 2>(value,
                                                   [](vfloat a, vfloat b) { return a + b; })[0];
}
inline float largest(vfloat value) {
  return detail::fold<static_cast<int>(lanes) / 2>(value, larger)[0];
}

/// Lane i of the result is the sum of the lanes of vectors[i].
inline __attribute__((always_inline)) vfloat sums_of_each(const vfloat (&vectors)[lanes]) {
  return detail::sums_from<static_cast<int>(lanes) / 2>(vectors);
}

// Functions.
/// e^x within 2 ulp; 0 below -87.3, infinity above 88.7, NaN stays. Source: Cephes expf.
inline vfloat exp(vfloat x) {
  constexpr float lowest = -87.33654F, highest = 88.72283F;
  constexpr float log2_e = 1.44269504F, ln2_high = 0.693359375F, ln2_low = -2.12194440e-4F;
  constexpr float rounding = 12582912.0F;  // 1.5 * 2^23: adding it leaves no fraction bits
  const vfloat bounded =
      select(x < lowest, broadcast(lowest), select(x > highest, broadcast(highest), x));
  const vfloat shifted = bounded * log2_e + rounding;
  const vfloat power = shifted - rounding;
  const vfloat rest = bounded - power * ln2_high - power * ln2_low;
  vfloat series = rest * 1.9875691500e-4F + 1.3981999507e-3F;
  series = series * rest + 8.3334519073e-3F;
  series = series * rest + 4.1665795894e-2F;
  series = series * rest + 1.6666665459e-1F;
  series = series * rest + 5.0000001201e-1F;
  series = series * rest * rest + rest + 1.0F;
  // The low bits of `shifted` are the power as an integer. Half of it is applied twice, since 2^128
  // has no encoding.
  const auto exponent = __builtin_bit_cast(vint, shifted) - __builtin_bit_cast(int32_t, rounding);
  const vint half = exponent >> 1;
  const auto scale_a = __builtin_bit_cast(vfloat, (half + 127) << 23);
  const auto scale_b = __builtin_bit_cast(vfloat, (exponent - half + 127) << 23);
  const vfloat result = series * scale_a * scale_b;
  return select(x < lowest, broadcast(0.0F),
                select(x > highest, broadcast(__builtin_inff()), result));
}

inline vfloat sigmoid(vfloat x) {
  return 1.0F / (1.0F + exp(-x));
}

/// 1 - erf(x) for x >= 0, absolute error below 2e-7. Source: Abramowitz and Stegun 7.1.26.
inline vfloat erfc_positive(vfloat x) {
  const vfloat t = 1.0F / (1.0F + 0.3275911F * x);
  vfloat series = t * 1.061405429F - 1.453152027F;
  series = series * t + 1.421413741F;
  series = series * t - 0.284496736F;
  series = series * t + 0.254829592F;
  return series * t * exp(-x * x);
}

}  // namespace troupe::gpu::cpu::TROUPE_ISA
