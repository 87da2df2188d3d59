#pragma once

#include "gpu/cpu/kernels.hpp"
#include "gpu/cpu/kernels/rows.hpp"
#include "gpu/cpu/kernels/simd.hpp"

/// Attention by tiles of keys with a running softmax. A score is summed over head_dim in one order,
/// an output over the keys from key 0 on: a row's bits do not depend on the rows beside it. Source:
/// Dao et al. 2022, Milakov and Gimelshein 2018.
namespace troupe::gpu::cpu::TROUPE_ISA {

/// A task's working memory, cut from its scratch.
struct attention_state {
  int64_t rows;
  int64_t padded;  // head_dim rounded up to pairs of vectors
  float* query;    // [rows][padded]
  float* output;   // [rows][padded], not yet divided by the total
  float* scores;   // [rows][attention_key_tile]
  float* peak;     // [rows] largest score so far
  float* total;    // [rows] sum of exp(score - peak) so far
  float* keys;     // [attention_key_tile][padded], where rows are not used as they lie
  float* values;   // alike
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

/// One row as fp32, followed by zeros.
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

/// The rows of one tile of keys or values. Those past the count repeat the first: they are read,
/// and their results dropped.
template <class Element>
struct tile_rows {
  const Element* row[attention_key_tile];
};

template <class T>
tile_rows<T> rows_as_they_lie(const key_value_rows<T>& cache, const T* base, int64_t first,
                              int64_t count) {
  tile_rows<T> tile;
  int64_t block = first / cache.block_size;
  int64_t place = first % cache.block_size;
  for (int64_t key = 0; key < count; ++key, ++place) {
    if (place == cache.block_size) {
      ++block;
      place = 0;
    }
    tile.row[key] = base + cache.blocks[block] * cache.block_stride + place * cache.row_stride;
  }
  for (int64_t key = count; key < attention_key_tile; ++key) tile.row[key] = tile.row[0];
  return tile;
}

template <class T>
tile_rows<float> padded_rows(const tile_rows<T>& source, float* memory, int64_t count,
                             int64_t head_dim, int64_t padded) {
  tile_rows<float> tile;
  for (int64_t key = 0; key < attention_key_tile; ++key) {
    tile.row[key] = memory + (key < count ? key : 0) * padded;
    if (key < count) load_padded(memory + key * padded, source.row[key], head_dim, padded);
  }
  return tile;
}

/// Query rows and keys whose products are summed side by side: one register per pair.
inline constexpr int score_rows_at_once = lanes == 16 ? 4 : 2;
inline constexpr int score_keys_at_once = static_cast<int>(lanes) / score_rows_at_once;

/// Scores of some query rows and keys. `width` is a multiple of `lanes`.
template <class Element>
void score_block(float* const* scores, const float* const* query, const Element* const* keys,
                 int64_t width) {
  vfloat sums[lanes] = {};
  for (int64_t i = 0; i < width; i += lanes) {
    vfloat row_part[score_rows_at_once];
    unrolled<score_rows_at_once>([&](int row) { row_part[row] = load(query[row] + i, full{}); });
    unrolled<score_keys_at_once>([&](int key) {
      vfloat key_part = load(keys[key] + i, full{});
      keep_in_register(key_part);
      unrolled<score_rows_at_once>(
          [&](int row) { sums[row * score_keys_at_once + key] += row_part[row] * key_part; });
    });
  }
  float all[lanes];
  store(all, sums_of_each(sums), full{});
  unrolled<score_rows_at_once>([&](int row) {
    __builtin_memcpy(scores[row], all + row * score_keys_at_once,
                     score_keys_at_once * sizeof(float));
  });
}

template <class Element>
void score_rows(const attention_state& state, const tile_rows<Element>& keys, int64_t width,
                row_range rows) {
  for (int64_t first = rows.first; first < rows.last; first += score_rows_at_once) {
    const float* query[score_rows_at_once];
    float* scores[score_rows_at_once];
    for (int64_t i = 0; i < score_rows_at_once; ++i) {
      const int64_t row = first + i < rows.last ? first + i : rows.last - 1;
      query[i] = state.query + row * state.padded;
      scores[i] = state.scores + row * attention_key_tile;
    }
    for (int64_t key = 0; key < attention_key_tile; key += score_keys_at_once) {
      score_block(scores, query, keys.row + key, width);
      for (float*& row : scores) row += score_keys_at_once;
    }
  }
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

/// output[row] += sum over the tile's `count` keys of weight * value, for some vectors of some
/// rows.
template <int num_rows, int num_vectors, class Element>
void add_values_block(strided<float> output, strided<const float> weights,
                      const tile_rows<Element>& values, int64_t column, int64_t count) {
  vfloat sums[num_rows * num_vectors];
  const auto each = [](const auto& step) __attribute__((always_inline)) {
    unrolled<num_rows * num_vectors>(
        [&](int i) { step(i, i / num_vectors, i % num_vectors * lanes); });
  };
  each([&](int i, int row, int64_t offset) {
    sums[i] = load(row_of(output, row) + column + offset, full{});
  });
  for (int64_t key = 0; key < count; ++key) {
    vfloat value[num_vectors];
    unrolled<num_vectors>([&](int i) {
      value[i] = load(values.row[key] + column + i * lanes, full{});
      keep_in_register(value[i]);
    });
    each([&](int i, int row, int64_t) {
      sums[i] += row_of(weights, row)[key] * value[i % num_vectors];
    });
  }
  each([&](int i, int row, int64_t offset) {
    store(row_of(output, row) + column + offset, sums[i], full{});
  });
}

/// All columns of some rows: as many vectors at once as the registers hold, then half as many.
template <int num_rows, int num_vectors, class Element>
void add_values_columns(strided<float> output, strided<const float> weights,
                        const tile_rows<Element>& values, int64_t column, int64_t end,
                        int64_t count) {
  for (; column + num_vectors * lanes <= end; column += num_vectors * lanes)
    add_values_block<num_rows, num_vectors>(output, weights, values, column, count);
  if constexpr (num_vectors > 2)
    add_values_columns<num_rows, num_vectors / 2>(output, weights, values, column, end, count);
}

// Sums that stay in registers, beside the values: of 16 registers, or of 32.
inline constexpr int sums_in_registers = lanes == 16 ? 16 : 8;

/// Few rows take whole keys at once, as they lie in memory; many rows share a pair of vectors.
template <int num_rows, class Element>
void add_values(const attention_state& state, const tile_rows<Element>& values, int64_t count,
                row_range rows) {
  constexpr int num_vectors = sums_in_registers / num_rows < 8 ? sums_in_registers / num_rows : 8;
  int64_t row = rows.first;
  for (; row + num_rows <= rows.last; row += num_rows)
    add_values_columns<num_rows, num_vectors>(
        {state.output + row * state.padded, state.padded},
        {state.scores + row * attention_key_tile, attention_key_tile}, values, 0, state.padded,
        count);
  if constexpr (num_rows > 1) add_values<num_rows / 2>(state, values, count, {row, rows.last});
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

template <class T, class Element>
void attend_rows(attention_state& state, const attention_arguments<T>& a, int64_t first,
                 int64_t count, const tile_rows<Element>& keys, const tile_rows<Element>& values) {
  const row_range rows{first_row_seeing(a, first), state.rows};
  score_rows(state, keys, (a.head_dim + lanes - 1) / lanes * lanes, rows);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const int64_t visible = visible_keys(a, row) - first;
    take_weights(state, row, visible < count ? visible : count, a.scale);
  }
  add_values<sums_in_registers / 2>(state, values, count, rows);
}

template <class T>
void attend_tile(attention_state& state, const attention_arguments<T>& a, int64_t first,
                 int64_t count) {
  const auto keys = rows_as_they_lie(a.cache, a.cache.keys, first, count);
  const auto values = rows_as_they_lie(a.cache, a.cache.values, first, count);
  // A copy pays where it spares many rows the widening, and is needed where vectors would run over
  // the end of a row.
  const bool widen = !__is_same(T, float) && state.rows > sums_in_registers;
  if (!widen && state.padded == a.head_dim)
    return attend_rows(state, a, first, count, keys, values);
  attend_rows(state, a, first, count,
              padded_rows(keys, state.keys, count, a.head_dim, state.padded),
              padded_rows(values, state.values, count, a.head_dim, state.padded));
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
