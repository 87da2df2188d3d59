#pragma once

#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kernels/rows.hpp"
#include "gpu/cpu/kernels/simd.hpp"

#include <math.h>

/// Rotary position embeddings: pair (i, i + head_dim / 2) turns by the i-th angle.
namespace troupe::gpu::cpu::TROUPE_ISA {

struct angles {
  float cosine[head_dim_max / 2];
  float sine[head_dim_max / 2];
};

inline void set_angle(angles& table, int64_t index, float angle, float factor) {
  table.cosine[index] = cosf(angle) * factor;
  table.sine[index] = sinf(angle) * factor;
}

/// Rotates one head in fp32 and rounds once.
template <class T>
void rotate(T* output, const T* input, const angles& table, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  for_vectors(half, [&](int64_t i, auto count) {
    const vfloat cosine = load(table.cosine + i, count);
    const vfloat sine = load(table.sine + i, count);
    const vfloat first = load(input + i, count);
    const vfloat second = load(input + half + i, count);
    store(output + i, first * cosine - second * sine, count);
    store(output + half + i, second * cosine + first * sine, count);
  });
}

template <class T>
void vision_rope(const vision_rope_arguments<T>& a, row_range rows) {
  const int64_t quarter = a.head_dim / 4;
  angles table;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const int32_t* place = row_of(a.coordinates, row);
    for (int64_t j = 0; j < quarter; ++j) {
      set_angle(table, j, static_cast<float>(place[0]) * a.inverse_frequency[j], 1.0F);
      set_angle(table, quarter + j, static_cast<float>(place[1]) * a.inverse_frequency[j], 1.0F);
    }
    T* heads = row_of(a.qkv, row);  // all of q, then all of k
    for (int64_t head = 0; head < 2 * int64_t{a.num_heads}; ++head)
      rotate(heads + head * a.head_dim, heads + head * a.head_dim, table, a.head_dim);
  }
}

template <class T>
void norm_and_rotate(T* output, const T* head, const T* weight, const angles& table,
                     const text_rope_arguments<T>& a) {
  T normed[head_dim_max];
  scale_row(normed, head, weight, inverse_rms(head, a.head_dim, a.epsilon), a.head_dim);
  rotate(output, normed, table, a.head_dim);
}

template <class T>
void write_cache(const text_rope_arguments<T>& a, const T* keys, int64_t slot,
                 const angles& table) {
  const int64_t head_span = a.block_size * a.head_dim;
  const int64_t block_span = a.num_kv_heads * head_span;
  T* block = a.cache + slot / a.block_size * 2 * block_span + slot % a.block_size * a.head_dim;
  for (int64_t head = 0; head < a.num_kv_heads; ++head) {
    T* key = block + head * head_span;
    norm_and_rotate(key, keys + head * a.head_dim, a.k_weight, table, a);
    const T* value = keys + (a.num_kv_heads + head) * a.head_dim;
    __builtin_memcpy(key + block_span, value, static_cast<size_t>(a.head_dim) * sizeof(T));
  }
}

template <class T>
void qk_norm_rope_cache_write(const text_rope_arguments<T>& a, row_range rows) {
  angles table;
  for (int64_t row = rows.first; row < rows.last; ++row) {
    for (int64_t j = 0; j < a.head_dim / 2; ++j) {
      const int32_t position = row_of(a.positions, a.axis[j])[row];
      set_angle(table, j, static_cast<float>(position) * a.inverse_frequency[j],
                a.attention_factor);
    }
    T* heads = row_of(a.qkv, row);
    for (int64_t head = 0; head < a.num_q_heads; ++head) {
      T* query = heads + head * a.head_dim;
      norm_and_rotate(query, query, a.q_weight, table, a);
    }
    if (a.slot_mapping[row] >= 0)
      write_cache(a, heads + a.num_q_heads * a.head_dim, a.slot_mapping[row], table);
  }
}

}  // namespace troupe::gpu::cpu::TROUPE_ISA
