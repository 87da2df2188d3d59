#pragma once

#include "gpu/cpu/kernels.hpp"

#include <immintrin.h>

/// Attention of bf16 heads by tiles of keys with a running softmax: products of bf16 pairs, sums
/// and softmax in fp32. A weight of the softmax is the sum of two bf16 values, which leave a
/// relative error of 2^-17: one value alone would be felt in the logits. A score is summed over
/// head_dim in one order, an output over the keys from key 0 on: a row's bits do not depend on the
/// rows beside it. Source: Dao et al. 2022, Milakov and Gimelshein 2018.
///
/// A tile is laid out for the multiplications once and serves all rows of the task:
///
///   keys    [head_dim / 2][64 keys][2 neighbouring dimensions]
///   values  [32][padded head_dim][2 neighbouring keys]
namespace troupe::gpu::cpu::avx512_bf16 {

// Keys that are scored at once, and vectors of as many scores.
inline constexpr int64_t tile_keys = 64;
inline constexpr int tile_vectors = 4;
inline constexpr int64_t tile_pairs = tile_keys / 2;
static_assert(tile_keys % attention_key_tile == 0);

/// A task's working memory, cut from its scratch. Pairs of bf16 are counted as one word each.
struct attention_tiles {
  int64_t rows;
  int64_t padded;    // head_dim rounded up to whole vectors of bf16
  int32_t* keys;     // [padded / 2][tile_keys]
  int32_t* values;   // [tile_pairs][padded]
  float* output;     // [rows][padded], not yet divided by the total
  float* scores;     // [rows][tile_keys]
  int32_t* weights;  // [rows][2][tile_pairs] the bf16 values nearest to the weights, then the rests
  float* totals;     // [rows][16] sums of exp(score - peak) so far, by lane
  float* peaks;      // [rows] largest score so far
};

inline attention_tiles cut_tiles(float* scratch, int64_t rows, int64_t head_dim) {
  attention_tiles tiles{};
  tiles.rows = rows;
  tiles.padded = (head_dim + 31) / 32 * 32;
  const auto take = [&](int64_t words) {
    float* part = scratch;
    scratch += words;
    return part;
  };
  tiles.keys = reinterpret_cast<int32_t*>(take(tiles.padded / 2 * tile_keys));
  tiles.values = reinterpret_cast<int32_t*>(take(tile_pairs * tiles.padded));
  tiles.output = take(rows * tiles.padded);
  tiles.scores = take(rows * tile_keys);
  tiles.weights = reinterpret_cast<int32_t*>(take(rows * 2 * tile_pairs));
  tiles.totals = take(rows * 16);
  tiles.peaks = take(rows);
  return tiles;
}
// Keys and values, and what each row has beside its output.
static_assert(tile_keys / 2 + tile_pairs <= 2 * attention_key_tile);
static_assert(tile_keys + 2 * tile_pairs + 16 + 1 <= 5 * attention_key_tile);

/// Query row `row` of the task.
inline const bfloat16* query_of(const attention_arguments<bfloat16>& a, int64_t row) {
  return a.query.data + row / a.group * a.query.stride + row % a.group * a.head_dim;
}
inline bfloat16* output_of(const attention_arguments<bfloat16>& a, int64_t row) {
  return a.output.data + row / a.group * a.output.stride + row % a.group * a.head_dim;
}
/// Keys that a row of the task sees.
inline int64_t visible_keys(const attention_arguments<bfloat16>& a, int64_t row) {
  return a.visible_first + row / a.group * a.visible_step;
}
/// The first row that sees key `key`.
inline int64_t first_row_seeing(const attention_arguments<bfloat16>& a, int64_t key) {
  if (a.visible_step == 0 || key < a.visible_first) return 0;
  return (key - a.visible_first + 1) * a.group;
}

/// Where the rows of a tile begin.
struct tile_places {
  int64_t count = 0;
  int64_t row[tile_keys];
};

/// The keys from `first` on of the `keys` that the task sees; none past the last.
inline tile_places places_of(const key_value_rows<bfloat16>& cache, int64_t first, int64_t keys) {
  tile_places places;
  if (first >= keys) return places;
  places.count = keys - first < tile_keys ? keys - first : tile_keys;
  int64_t block = first / cache.block_size;
  int64_t place = first % cache.block_size;
  for (int64_t key = 0; key < places.count; ++key, ++place) {
    if (place == cache.block_size) {
      ++block;
      place = 0;
    }
    places.row[key] = cache.blocks[block] * cache.block_stride + place * cache.row_stride;
  }
  return places;
}

/// Asks for what the next tile reads in the same place, one row at a time between the other work:
/// the rows lie in blocks anywhere in memory. (Inlined always: GCC takes a function that only
/// prefetches for one without effect, and drops its calls.)
inline __attribute__((always_inline)) void prefetch_row(const bfloat16* rows,
                                                        const tile_places& next, int64_t key,
                                                        int64_t column) {
  if (key < next.count)
    _mm_prefetch(reinterpret_cast<const char*>(rows + next.row[key] + column), _MM_HINT_T1);
}

/// 32 elements of a row from `column` on, zeros past `head_dim`.
inline __m512i load_elements(const bfloat16* row, int64_t column, int64_t head_dim) {
  const int64_t left = head_dim - column;
  if (left >= 32) return _mm512_loadu_si512(row + column);
  return _mm512_maskz_loadu_epi16(static_cast<__mmask32>((uint64_t{1} << left) - 1), row + column);
}

/// Word j of row i becomes word i of row j.
inline __attribute__((always_inline)) void transpose(__m512i (&rows)[16]) {
  __m512i pairs[16];
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(rows[i], rows[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(rows[i], rows[i + 1]);
  }
  for (int i = 0; i < 16; i += 4)
    for (int half = 0; half < 2; ++half) {
      rows[i + 2 * half] = _mm512_unpacklo_epi64(pairs[i + half], pairs[i + half + 2]);
      rows[i + 2 * half + 1] = _mm512_unpackhi_epi64(pairs[i + half], pairs[i + half + 2]);
    }
  // Now rows[4 g + c] holds words c, c + 4, ... of rows 4 g to 4 g + 3, four words to a quarter.
  for (int c = 0; c < 4; ++c) {
    const __m512i low = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0x88);
    const __m512i high = _mm512_shuffle_i32x4(rows[c], rows[4 + c], 0xdd);
    const __m512i next_low = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0x88);
    const __m512i next_high = _mm512_shuffle_i32x4(rows[8 + c], rows[12 + c], 0xdd);
    pairs[c] = _mm512_shuffle_i32x4(low, next_low, 0x88);
    pairs[8 + c] = _mm512_shuffle_i32x4(low, next_low, 0xdd);
    pairs[4 + c] = _mm512_shuffle_i32x4(high, next_high, 0x88);
    pairs[12 + c] = _mm512_shuffle_i32x4(high, next_high, 0xdd);
  }
  for (int i = 0; i < 16; ++i) rows[i] = pairs[i];
}

/// Keys that the tile lacks become zeros up to the next whole vector.
inline void lay_out_keys(const attention_tiles& tiles, const attention_arguments<bfloat16>& a,
                         const tile_places& places, const tile_places& next) {
  for (int64_t key = 0; key < places.count; key += 16)
    for (int64_t column = 0; column < a.head_dim; column += 32) {
      __m512i rows[16];
      for (int i = 0; i < 16; ++i) {
        rows[i] = key + i < places.count
                      ? load_elements(a.cache.keys + places.row[key + i], column, a.head_dim)
                      : _mm512_setzero_si512();
        prefetch_row(a.cache.keys, next, key + i, column);
      }
      transpose(rows);
      for (int i = 0; i < 16; ++i)
        _mm512_storeu_si512(tiles.keys + (column / 2 + i) * tile_keys + key, rows[i]);
    }
}

/// A last odd key has a zero beside it.
inline void lay_out_values(const attention_tiles& tiles, const attention_arguments<bfloat16>& a,
                           const tile_places& places, const tile_places& next) {
  alignas(64) static constexpr uint16_t low[32] = {0,  32, 1,  33, 2,  34, 3,  35, 4,  36, 5,
                                                   37, 6,  38, 7,  39, 8,  40, 9,  41, 10, 42,
                                                   11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low_half = _mm512_load_si512(low);
  const __m512i high_half = _mm512_add_epi16(low_half, _mm512_set1_epi16(16));
  for (int64_t key = 0; key < places.count; key += 2)
    for (int64_t column = 0; column < a.head_dim; column += 32) {
      const __m512i even = load_elements(a.cache.values + places.row[key], column, a.head_dim);
      const __m512i odd =
          key + 1 < places.count
              ? load_elements(a.cache.values + places.row[key + 1], column, a.head_dim)
              : _mm512_setzero_si512();
      prefetch_row(a.cache.values, next, key, column);
      prefetch_row(a.cache.values, next, key + 1, column);
      int32_t* to = tiles.values + key / 2 * tiles.padded + column;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(even, low_half, odd));
      _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi16(even, high_half, odd));
    }
}

inline __m512bh as_pairs(__m512i words) {
  return reinterpret_cast<__m512bh>(words);
}

inline __m512bh broadcast_pair(const void* pair) {
  int32_t bits;
  __builtin_memcpy(&bits, pair, sizeof bits);
  return as_pairs(_mm512_set1_epi32(bits));
}

/// Scores of `num_rows` rows from `row` on, not yet scaled.
template <int num_rows>
void score(const attention_tiles& tiles, const attention_arguments<bfloat16>& a, int64_t row) {
  __m512 sums[num_rows][tile_vectors];
  const bfloat16* query[num_rows];
  for (int r = 0; r < num_rows; ++r) {
    query[r] = query_of(a, row + r);
    for (auto& sum : sums[r]) sum = _mm512_setzero_ps();
  }
  for (int64_t pair = 0; pair < a.head_dim / 2; ++pair) {
    __m512bh keys[tile_vectors];
    for (int i = 0; i < tile_vectors; ++i)
      keys[i] = as_pairs(_mm512_loadu_si512(tiles.keys + pair * tile_keys + i * 16));
    for (int r = 0; r < num_rows; ++r) {
      const __m512bh part = broadcast_pair(query[r] + 2 * pair);
      for (int i = 0; i < tile_vectors; ++i)
        sums[r][i] = _mm512_dpbf16_ps(sums[r][i], part, keys[i]);
    }
  }
  for (int r = 0; r < num_rows; ++r)
    for (int i = 0; i < tile_vectors; ++i)
      _mm512_storeu_ps(tiles.scores + (row + r) * tile_keys + i * 16, sums[r][i]);
}

/// 2^x for x <= 0 within 2e-7; 0 far below. NaN stays.
inline __m512 power_of_two(__m512 x) {
  const __m512 bounded =
      _mm512_max_ps(_mm512_set1_ps(-160.0F), x);  // the second operand's NaN stays
  const __m512 whole = _mm512_roundscale_ps(bounded, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = bounded - whole;
  // The Taylor series of 2^rest, |rest| <= 1/2.
  __m512 series = _mm512_set1_ps(1.54035304e-4F);
  for (const float term :
       {1.33335581e-3F, 9.61812911e-3F, 5.55041087e-2F, 2.40226507e-1F, 6.93147181e-1F, 1.0F})
    series = _mm512_fmadd_ps(series, rest, _mm512_set1_ps(term));
  return _mm512_scalef_ps(series, whole);
}

/// Splits 32 weights into bf16 values and what these leave.
inline void store_weights(int32_t* to, __m512 first, __m512 second) {
  const auto nearest = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
  const auto widened = [](__m256i bits) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  };
  const __m512 first_rest = first - widened(_mm512_castsi512_si256(nearest));
  const __m512 second_rest = second - widened(_mm512_extracti64x4_epi64(nearest, 1));
  _mm512_storeu_si512(to, nearest);
  _mm512_storeu_si512(to + tile_pairs,
                      reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second_rest, first_rest)));
}

/// Scores to weights 2^(score - peak); 0 where the row does not see the key. Moves the peak
/// and rescales what was summed under the old one. `scale` includes log2(e).
inline void take_weights(const attention_tiles& tiles, int64_t row, int64_t visible, float scale) {
  const uint64_t seen = visible >= tile_keys ? ~uint64_t{0} : (uint64_t{1} << visible) - 1;
  const auto seen_by = [&](int i) { return static_cast<__mmask16>(seen >> (16 * i)); };
  const float* scores = tiles.scores + row * tile_keys;
  const float old_peak = tiles.peaks[row];
  __m512 scaled[tile_vectors];
  __m512 peaks = _mm512_set1_ps(old_peak);
  for (int i = 0; i < tile_vectors; ++i) {
    scaled[i] = _mm512_loadu_ps(scores + i * 16) * _mm512_set1_ps(scale);
    peaks = _mm512_mask_max_ps(peaks, seen_by(i), peaks, scaled[i]);
  }
  const float peak = _mm512_reduce_max_ps(peaks);
  __m512 total = _mm512_loadu_ps(tiles.totals + row * 16);
  if (peak != old_peak) {
    const __m512 shrink = power_of_two(_mm512_set1_ps(old_peak - peak));
    total *= shrink;
    float* output = tiles.output + row * tiles.padded;
    for (int64_t i = 0; i < tiles.padded; i += 16)
      _mm512_storeu_ps(output + i, _mm512_loadu_ps(output + i) * shrink);
    tiles.peaks[row] = peak;
  }
  for (int i = 0; i < tile_vectors; ++i) {
    scaled[i] = _mm512_maskz_mov_ps(seen_by(i), power_of_two(scaled[i] - _mm512_set1_ps(peak)));
    total += scaled[i];
  }
  _mm512_storeu_ps(tiles.totals + row * 16, total);
  for (int i = 0; i < tile_vectors; i += 2)
    store_weights(tiles.weights + row * 2 * tile_pairs + i * 8, scaled[i], scaled[i + 1]);
}

/// output += weights * values over the tile's pairs of keys, for some vectors of some rows.
template <int num_rows, int num_vectors>
void add_values(const attention_tiles& tiles, int64_t row, int64_t column, int64_t pairs) {
  __m512 sums[num_rows][num_vectors];
  const auto place = [&](int r, int i) {
    return tiles.output + (row + r) * tiles.padded + column + i * 16;
  };
  for (int r = 0; r < num_rows; ++r)
    for (int i = 0; i < num_vectors; ++i) sums[r][i] = _mm512_loadu_ps(place(r, i));
  for (int64_t pair = 0; pair < pairs; ++pair) {
    __m512bh values[num_vectors];
    for (int i = 0; i < num_vectors; ++i)
      values[i] =
          as_pairs(_mm512_loadu_si512(tiles.values + pair * tiles.padded + column + i * 16));
    for (int r = 0; r < num_rows; ++r) {
      const int32_t* weight = tiles.weights + (row + r) * 2 * tile_pairs + pair;
      const __m512bh nearest = broadcast_pair(weight), rest = broadcast_pair(weight + tile_pairs);
      for (int i = 0; i < num_vectors; ++i) {
        sums[r][i] = _mm512_dpbf16_ps(sums[r][i], nearest, values[i]);
        sums[r][i] = _mm512_dpbf16_ps(sums[r][i], rest, values[i]);
      }
    }
  }
  for (int r = 0; r < num_rows; ++r)
    for (int i = 0; i < num_vectors; ++i) _mm512_storeu_ps(place(r, i), sums[r][i]);
}

// Rows at once: as many as registers hold the sums of, then fewer.
inline constexpr int attention_rows_at_once = 6;
constexpr int fewer(int num_rows) {
  return num_rows > 4 ? 4 : num_rows / 2;
}

template <int num_rows>
void score_rows(const attention_tiles& tiles, const attention_arguments<bfloat16>& a, int64_t row,
                int64_t end) {
  for (; row + num_rows <= end; row += num_rows) score<num_rows>(tiles, a, row);
  if constexpr (num_rows > 1) score_rows<fewer(num_rows)>(tiles, a, row, end);
}

template <int num_rows>
void add_values_of_rows(const attention_tiles& tiles, int64_t row, int64_t end, int64_t pairs) {
  for (; row + num_rows <= end; row += num_rows) {
    int64_t column = 0;
    for (; column + 64 <= tiles.padded; column += 64)
      add_values<num_rows, 4>(tiles, row, column, pairs);
    if (column < tiles.padded) add_values<num_rows, 2>(tiles, row, column, pairs);
  }
  if constexpr (num_rows > 1) add_values_of_rows<fewer(num_rows)>(tiles, row, end, pairs);
}

inline void begin(const attention_tiles& tiles) {
  for (int64_t row = 0; row < tiles.rows; ++row) {
    for (int64_t i = 0; i < tiles.padded; i += 16)
      _mm512_storeu_ps(tiles.output + row * tiles.padded + i, _mm512_setzero_ps());
    _mm512_storeu_ps(tiles.totals + row * 16, _mm512_setzero_ps());
    tiles.peaks[row] = -__builtin_inff();
  }
}

/// Keys [first, first + places.count).
inline void attend_tile(const attention_tiles& tiles, const attention_arguments<bfloat16>& a,
                        int64_t first, const tile_places& places, const tile_places& next) {
  lay_out_keys(tiles, a, places, next);
  lay_out_values(tiles, a, places, next);
  constexpr float log2_e = 1.44269504F;
  const int64_t first_row = first_row_seeing(a, first);
  score_rows<attention_rows_at_once>(tiles, a, first_row, tiles.rows);
  for (int64_t row = first_row; row < tiles.rows; ++row)
    take_weights(tiles, row, visible_keys(a, row) - first, a.scale * log2_e);
  add_values_of_rows<attention_rows_at_once>(tiles, first_row, tiles.rows, (places.count + 1) / 2);
}

/// Output row divided by the sum of its weights.
inline void finish(const attention_tiles& tiles, const attention_arguments<bfloat16>& a,
                   int64_t row) {
  const __m512 inverse =
      _mm512_set1_ps(1.0F / _mm512_reduce_add_ps(_mm512_loadu_ps(tiles.totals + row * 16)));
  bfloat16* output = output_of(a, row);
  for (int64_t i = 0; i < a.head_dim; i += 16) {
    const int64_t left = a.head_dim - i;
    const auto mask = static_cast<__mmask16>(left >= 16 ? 0xffff : (1 << left) - 1);
    const __m512 value = _mm512_loadu_ps(tiles.output + row * tiles.padded + i) * inverse;
    _mm256_mask_storeu_epi16(output + i, mask,
                             reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(value)));
  }
}

inline void attention(const attention_arguments<bfloat16>& a) {
  const attention_tiles tiles = cut_tiles(a.scratch, a.num_tokens * a.group, a.head_dim);
  begin(tiles);
  const int64_t keys = visible_keys(a, tiles.rows - 1);
  tile_places places = places_of(a.cache, 0, keys);
  for (int64_t first = 0; first < keys; first += tile_keys) {
    const tile_places next = places_of(a.cache, first + tile_keys, keys);
    attend_tile(tiles, a, first, places, next);
    places = next;
  }
  for (int64_t row = 0; row < tiles.rows; ++row) finish(tiles, a, row);
}

}  // namespace troupe::gpu::cpu::avx512_bf16
