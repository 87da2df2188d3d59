#pragma once

#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kernels/rows.hpp"
#include "gpu/cpu/kernels/simd.hpp"

/// Attention by tiles of keys with a running softmax. Every score is one chain over head_dim, every
/// output one chain over the keys from key 0 on: a row's bits do not depend on the rows beside it.
/// Source: Dao et al. 2022, Milakov and Gimelshein 2018.
namespace troupe::gpu::cpu::TROUPE_ISA {

/// A task's working memory, cut from its scratch.
struct attention_state {
  int64_t rows;
  int64_t padded;  // head_dim rounded up to pairs of vectors
  float* keys;     // [head_dim][attention_key_tile], transposed
  float* values;   // [attention_key_tile][padded]
  float* query;    // [rows][padded]
  float* output;   // [rows][padded], not yet divided by the sum
  float* scores;   // [rows][attention_key_tile]
  float* peak;     // [rows] largest score so far
  float* total;    // [rows] sum of exp(score - peak) so far
};

inline attention_state cut_scratch(float* scratch, int64_t rows, int64_t head_dim) {
  attention_state state{};
  state.rows = rows;
  state.padded = (head_dim + 2 * lanes - 1) / (2 * lanes) * (2 * lanes);
  const auto take = [&](int64_t floats) {
    float* part = scratch;
    scratch += floats;
    return part;
  };
  state.keys = take(attention_key_tile * state.padded);
  state.values = take(attention_key_tile * state.padded);
  state.query = take(rows * state.padded);
  state.output = take(rows * state.padded);
  state.scores = take(rows * attention_key_tile);
  state.peak = take(rows);
  state.total = take(rows);
  return state;
}

template <class T>
void load_padded(float* to, const T* from, int64_t head_dim, int64_t padded) {
  int64_t end = 0;
  for_vectors(head_dim, [&](int64_t i, auto count) {
    store(to + i, load(from + i, count), full{});
    end = i + lanes;
  });
  if (end < padded) store(to + end, vfloat{}, full{});
}

template <class T>
void begin(attention_state& state, const attention_arguments<T>& a) {
  for (int64_t row = 0; row < state.rows; ++row) {
    load_padded(state.query + row * state.padded,
                row_of(a.query, row / a.group) + row % a.group * a.head_dim, a.head_dim,
                state.padded);
    for (int64_t i = 0; i < state.padded; i += lanes)
      store(state.output + row * state.padded + i, vfloat{}, full{});
    state.peak[row] = -__builtin_inff();
    state.total[row] = 0;
  }
}

template <class T>
int64_t row_offset(const key_value_rows<T>& cache, int64_t key) {
  return cache.blocks[key / cache.block_size] * cache.block_stride +
         key % cache.block_size * cache.row_stride;
}

/// Fills `keys` with `count` keys from `first` on, transposed. Lanes past the count are 0.
template <class T>
void load_keys(attention_state& state, const attention_arguments<T>& a, int64_t first,
               int64_t count) {
  for (int64_t group = 0; group < count; group += lanes) {
    const T* source[lanes];
    for (int64_t lane = 0; lane < lanes; ++lane)
      source[lane] =
          group + lane < count ? a.cache.keys + row_offset(a.cache, first + group + lane) : nullptr;
    for_vectors(a.head_dim, [&](int64_t i, auto width) {
      vfloat block[lanes];
      for (int64_t lane = 0; lane < lanes; ++lane)
        block[lane] = source[lane] != nullptr ? load(source[lane] + i, width) : vfloat{};
      transpose(block);
      for (int64_t j = 0; j < width; ++j)
        store(state.keys + (i + j) * attention_key_tile + group, block[j], full{});
    });
  }
}

template <class T>
void load_values(attention_state& state, const attention_arguments<T>& a, int64_t first,
                 int64_t count) {
  for (int64_t key = 0; key < count; ++key)
    load_padded(state.values + key * state.padded,
                a.cache.values + row_offset(a.cache, first + key), a.head_dim, state.padded);
}

/// Which product a tile adds to: scores start at 0, outputs go on.
enum class start { zero, present };

/// c[row][two vectors] = (c or 0) + sum over k of a[row][k] * b[k][two vectors], one chain per
/// element.
template <int num_rows, start from>
inline void multiply_block(strided<float> c, strided<const float> a, strided<const float> b,
                           int64_t depth) {
  vfloat left[num_rows] = {}, right[num_rows] = {};
  if constexpr (from == start::present)
    for (int row = 0; row < num_rows; ++row) {
      left[row] = load(row_of(c, row), full{});
      right[row] = load(row_of(c, row) + lanes, full{});
    }
  for (int64_t k = 0; k < depth; ++k) {
    const vfloat b_left = load(row_of(b, k), full{});
    const vfloat b_right = load(row_of(b, k) + lanes, full{});
    for (int row = 0; row < num_rows; ++row) {
      const float factor = row_of(a, row)[k];
      left[row] += factor * b_left;
      right[row] += factor * b_right;
    }
  }
  for (int row = 0; row < num_rows; ++row) {
    store(row_of(c, row), left[row], full{});
    store(row_of(c, row) + lanes, right[row], full{});
  }
}

template <int num_rows, start from>
void multiply_rows(strided<float> c, strided<const float> a, strided<const float> b, int64_t width,
                   int64_t depth) {
  for (int64_t column = 0; column < width; column += 2 * lanes)
    multiply_block<num_rows, from>({c.data + column, c.stride}, a, {b.data + column, b.stride},
                                   depth);
}

/// Rows [first, last) of c, by blocks of rows that fit the registers.
template <start from>
void multiply(strided<float> c, strided<const float> a, strided<const float> b, int64_t width,
              int64_t depth, row_range rows) {
  int64_t row = rows.first;
  const auto block = [&](auto multiply_some, int64_t count) {
    multiply_some({row_of(c, row), c.stride}, {row_of(a, row), a.stride}, b, width, depth);
    row += count;
  };
  while (rows.last - row >= 4) block(multiply_rows<4, from>, 4);
  if (rows.last - row >= 2) block(multiply_rows<2, from>, 2);
  if (rows.last - row >= 1) block(multiply_rows<1, from>, 1);
}

/// Scores to weights exp(score - peak); 0 where the row does not see the key. Moves the peak and
/// rescales what was summed under the old one.
inline void take_weights(attention_state& state, int64_t row, int64_t visible, float scale) {
  float* scores = state.scores + row * attention_key_tile;
  vfloat peaks = broadcast(state.peak[row]);
  for (int64_t i = 0; i < attention_key_tile; i += lanes) {
    vint key;
    for (int64_t lane = 0; lane < lanes; ++lane) key[lane] = static_cast<int32_t>(i + lane);
    const vfloat score = select(key < static_cast<int32_t>(visible),
                                load(scores + i, full{}) * scale, broadcast(-__builtin_inff()));
    store(scores + i, score, full{});
    peaks = larger(score, peaks);
  }
  const float peak = largest(peaks);
  vfloat total{};
  for (int64_t i = 0; i < attention_key_tile; i += lanes) {
    const vfloat weight = exp(load(scores + i, full{}) - peak);
    store(scores + i, weight, full{});
    total += weight;
  }
  if (peak != state.peak[row]) {
    const vfloat shrink = exp(broadcast(state.peak[row] - peak));
    float* output = state.output + row * state.padded;
    for (int64_t i = 0; i < state.padded; i += lanes)
      store(output + i, load(output + i, full{}) * shrink, full{});
    state.total[row] *= shrink[0];
    state.peak[row] = peak;
  }
  state.total[row] += sum(total);
}

/// Keys that a row of the task sees.
template <class T>
int64_t visible_keys(const attention_arguments<T>& a, int64_t row) {
  return a.visible_first + row / a.group * a.visible_step;
}

/// The first row that sees key `key`.
template <class T>
int64_t first_row_seeing(const attention_arguments<T>& a, int64_t key) {
  if (a.visible_step == 0 || key < a.visible_first) return 0;
  return (key - a.visible_first + 1) * a.group;
}

template <class T>
void attend_tile(attention_state& state, const attention_arguments<T>& a, int64_t first,
                 int64_t count) {
  load_keys(state, a, first, count);
  load_values(state, a, first, count);
  const row_range rows{first_row_seeing(a, first), state.rows};
  multiply<start::zero>({state.scores, attention_key_tile}, {state.query, state.padded},
                        {state.keys, attention_key_tile}, attention_key_tile, a.head_dim, rows);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const int64_t visible = visible_keys(a, row) - first;
    take_weights(state, row, visible < attention_key_tile ? visible : attention_key_tile, a.scale);
  }
  multiply<start::present>({state.output, state.padded}, {state.scores, attention_key_tile},
                           {state.values, state.padded}, state.padded, count, rows);
}

template <class T>
void attention(const attention_arguments<T>& a) {
  attention_state state = cut_scratch(a.scratch, a.num_tokens * a.group, a.head_dim);
  begin(state, a);
  const int64_t keys = visible_keys(a, state.rows - 1);
  for (int64_t first = 0; first < keys; first += attention_key_tile)
    attend_tile(state, a, first,
                keys - first < attention_key_tile ? keys - first : attention_key_tile);
  for (int64_t row = 0; row < state.rows; ++row) {
    const float inverse = 1.0F / state.total[row];
    T* output = row_of(a.output, row / a.group) + row % a.group * a.head_dim;
    for_vectors(a.head_dim, [&](int64_t i, auto count) {
      store(output + i, load(state.output + row * state.padded + i, full{}) * inverse, count);
    });
  }
}

}  // namespace troupe::gpu::cpu::TROUPE_ISA
