#pragma once

#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kernels/simd.hpp"

/// Kernels that work on each row alone.
namespace troupe::gpu::cpu::TROUPE_ISA {

template <class T>
T* row_of(strided<T> matrix, int64_t row) {
  return matrix.data + row * matrix.stride;
}

template <class T>
float sum_of_squares(const T* row, int64_t width) {
  vfloat total{};
  for_vectors(width, [&](int64_t i, auto count) {
    const vfloat x = load(row + i, count);
    total += x * x;
  });
  return sum(total);
}

/// output = weight * round(input * scale).
template <class T>
void scale_row(T* output, const T* input, const T* weight, float scale, int64_t width) {
  for_vectors(width, [&](int64_t i, auto count) {
    const vfloat normed = round_to(output, load(input + i, count) * scale);
    store(output + i, load(weight + i, count) * normed, count);
  });
}

template <class T>
float inverse_rms(const T* row, int64_t width, float epsilon) {
  return 1.0F / __builtin_sqrtf(sum_of_squares(row, width) / static_cast<float>(width) + epsilon);
}

template <class T>
void rms_norm(const norm_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const T* input = row_of(a.input, row);
    scale_row(row_of(a.output, row), input, a.weight, inverse_rms(input, a.width, a.epsilon),
              a.width);
  }
}

template <class T>
float mean_of(const T* row, int64_t width) {
  vfloat total{};
  for_vectors(width, [&](int64_t i, auto count) { total += load(row + i, count); });
  return sum(total) / static_cast<float>(width);
}

template <class T>
float variance_of(const T* row, float mean, int64_t width) {
  vfloat total{};
  int64_t offset = 0;
  for (; offset + lanes <= width; offset += lanes) {
    const vfloat distance = load(row + offset, full{}) - mean;
    total += distance * distance;
  }
  float result = sum(total);
  for (; offset < width; ++offset) {
    const float distance = to_scalar(row[offset]) - mean;
    result += distance * distance;
  }
  return result / static_cast<float>(width);
}

template <class T>
void layer_norm(const norm_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const T* input = row_of(a.input, row);
    T* output = row_of(a.output, row);
    const float mean = mean_of(input, a.width);
    const float scale = 1.0F / __builtin_sqrtf(variance_of(input, mean, a.width) + a.epsilon);
    for_vectors(a.width, [&](int64_t i, auto count) {
      const vfloat normed = (load(input + i, count) - mean) * scale;
      store(output + i, normed * load(a.weight + i, count) + load(a.bias + i, count), count);
    });
  }
}

/// residual += round(sum of the parts in rank order).
template <class T>
void add_parts(const add_norm_arguments<T>& a, T* residual, int64_t row) {
  for_vectors(a.width, [&](int64_t i, auto count) {
    vfloat total{};
    for (int32_t part = 0; part < a.num_parts; ++part)
      total += load(a.parts[part] + row * a.part_stride + i, count);
    store(residual + i, load(residual + i, count) + round_to(residual, total), count);
  });
}

template <class T>
void add_row(T* x, const T* y, int64_t width) {
  for_vectors(width, [&](int64_t i, auto count) {
    store(x + i, load(x + i, count) + load(y + i, count), count);
  });
}

template <class T>
void add_norm(const add_norm_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    T* residual = row_of(a.residual, row);
    add_parts(a, residual, row);
    if (a.row_map != nullptr && a.row_map[row] >= 0 && a.row_map[row] < a.pool_rows)
      add_row(residual, row_of(a.pool, a.row_map[row]), a.width);
    scale_row(row_of(a.normed, row), residual, a.weight, inverse_rms(residual, a.width, a.epsilon),
              a.width);
  }
}

template <class T>
void silu_and_mul(const unary_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const T* gate = row_of(a.input, row);
    const T* up = gate + a.width;
    T* output = row_of(a.output, row);
    for_vectors(a.width, [&](int64_t i, auto count) {
      const vfloat x = load(gate + i, count);
      store(output + i, round_to(output, x * sigmoid(x)) * load(up + i, count), count);
    });
  }
}

/// 0.5 (1 + tanh(u)) = sigmoid(2u) with u = sqrt(2 / pi) (x + 0.044715 x^3).
inline vfloat gelu_tanh_of(vfloat x) {
  constexpr float twice_sqrt_2_over_pi = 1.59576912160573F;
  return x * sigmoid(twice_sqrt_2_over_pi * (x + 0.044715F * x * x * x));
}

inline vfloat gelu_erf_of(vfloat x) {
  constexpr float inverse_sqrt_2 = 0.707106781186548F;
  const vfloat magnitude = select(x < 0.0F, -x, x);
  const vfloat tail = 0.5F * erfc_positive(magnitude * inverse_sqrt_2);
  return x * select(x < 0.0F, tail, 1.0F - tail);
}

template <class T, vfloat function(vfloat)>
void apply(const unary_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const T* input = row_of(a.input, row);
    T* output = row_of(a.output, row);
    for_vectors(a.width, [&](int64_t i, auto count) {
      store(output + i, function(load(input + i, count)), count);
    });
  }
}

template <class T>
void add(const unary_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row)
    add_row(row_of(a.output, row), row_of(a.input, row), a.width);
}

template <class T>
void to_float(strided<float> output, strided<const T> input, int64_t width, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row)
    for_vectors(width, [&](int64_t i, auto count) {
      store(row_of(output, row) + i, load(row_of(input, row) + i, count), count);
    });
}

template <class T>
void from_float(strided<T> output, strided<const float> input, int64_t width, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row)
    for_vectors(width, [&](int64_t i, auto count) {
      store(row_of(output, row) + i, load(row_of(input, row) + i, count), count);
    });
}

/// One axis of the bilinear interpolation: two neighbouring table rows and the second one's share.
struct interpolation {
  int64_t low;
  int64_t high;
  float share;
};

inline interpolation interpolate(int32_t place, int32_t extent, int32_t side) {
  if (extent <= 1) return {0, 0, 0.0F};
  const float position =
      static_cast<float>(place) * static_cast<float>(side - 1) / static_cast<float>(extent - 1);
  int64_t low = static_cast<int64_t>(position);
  if (low > side - 1) low = side - 1;
  return {low, low + 1 < side ? low + 1 : low, position - static_cast<float>(low)};
}

template <class T>
void add_position_embedding(const position_embedding_arguments<T>& a, row_range rows) {
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const int32_t* place = row_of(a.coordinates, row);
    const interpolation y = interpolate(place[0], place[2], a.side);
    const interpolation x = interpolate(place[1], place[3], a.side);
    const T* corner[4] = {
        row_of(a.table, y.low * a.side + x.low), row_of(a.table, y.low * a.side + x.high),
        row_of(a.table, y.high * a.side + x.low), row_of(a.table, y.high * a.side + x.high)};
    const float weight[4] = {(1 - y.share) * (1 - x.share), (1 - y.share) * x.share,
                             y.share * (1 - x.share), y.share * x.share};
    T* target = row_of(a.x, row);
    for_vectors(a.width, [&](int64_t i, auto count) {
      vfloat embedding{};
      for (int corner_index = 0; corner_index < 4; ++corner_index)
        embedding += weight[corner_index] * load(corner[corner_index] + i, count);
      store(target + i, load(target + i, count) + round_to(target, embedding), count);
    });
  }
}

inline void add_scaled(float* accumulator, const float* row, float weight, int64_t width) {
  for_vectors(width, [&](int64_t i, auto count) {
    store(accumulator + i, load(accumulator + i, count) + weight * load(row + i, count), count);
  });
}

inline float largest_finite(const float* values, int64_t count) {
  vfloat largest_so_far = broadcast(-__builtin_inff());
  vfloat poison{};  // 0 * x is 0 for finite x alone
  int64_t offset = 0;
  for (; offset + lanes <= count; offset += lanes) {
    const vfloat x = load(values + offset, full{});
    largest_so_far = larger(x, largest_so_far);
    poison += x * 0.0F;
  }
  float result = largest(largest_so_far);
  float scalar_poison = sum(poison);
  for (; offset < count; ++offset) {
    result = values[offset] > result ? values[offset] : result;
    scalar_poison += values[offset] * 0.0F;
  }
  return result + scalar_poison;
}

inline int64_t place_of_largest(const float* values, int64_t count) {
  vfloat peaks = broadcast(-__builtin_inff());
  int64_t offset = 0;
  for (; offset + lanes <= count; offset += lanes)
    peaks = larger(load(values + offset, full{}), peaks);
  float peak = largest(peaks);
  for (; offset < count; ++offset) peak = values[offset] > peak ? values[offset] : peak;
  int64_t place = 0;
  while (place + 1 < count && values[place] != peak) ++place;
  return place;
}

inline void copy_masked(float* output, const float* input, const uint8_t* mask, int64_t count) {
  for_vectors(count, [&](int64_t i, auto n) {
    using vmask [[gnu::vector_size(lanes)]] = uint8_t;
    vmask bytes{};
    __builtin_memcpy(&bytes, mask + i, static_cast<size_t>(n));
    const vint allowed = __builtin_convertvector(bytes, vint) != 0;
    store(output + i, select(allowed, load(input + i, n), broadcast(-__builtin_inff())), n);
  });
}

inline double sum_exp(const float* values, int64_t count, float origin, float scale) {
  // In double per stretch: fp32 would lose the tail of a large vocabulary.
  constexpr int64_t stretch = 256 * lanes;
  double total = 0;
  for (int64_t start = 0; start < count; start += stretch) {
    const int64_t width = count - start < stretch ? count - start : stretch;
    vfloat part{};
    for_vectors(width, [&](int64_t i, auto n) {
      const vfloat term = exp((load(values + start + i, n) - origin) * scale);
      if constexpr (__is_same(decltype(n), full)) {
        part += term;
      } else {
        float lane[lanes];
        store(lane, term, full{});
        for (int64_t j = 0; j < n; ++j) total += static_cast<double>(lane[j]);
      }
    });
    total += static_cast<double>(sum(part));
  }
  return total;
}

}  // namespace troupe::gpu::cpu::TROUPE_ISA
