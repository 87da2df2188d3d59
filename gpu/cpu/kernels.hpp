#pragma once

#include "gpu/tensor_view.hpp"

#include <cstdint>

/// Kernels of the CPU backend: loops over pointers, shapes and a range of rows. They know neither
/// the views nor the threads that call them. T is the activation type, float or bfloat16.
namespace troupe::gpu::cpu {

/// The largest head_dim: its tables lie on the stack.
inline constexpr int64_t head_dim_max = 512;

/// Rows [first, last).
struct row_range {
  int64_t first = 0;
  int64_t last = 0;
};

/// Rows of elements, `stride` elements apart. (A plain struct: see kernels/simd.hpp for why kernels
/// share no functions.)
template <class T>
struct strided {
  T* data = nullptr;
  int64_t stride = 0;
};

template <class T>
struct norm_arguments {
  strided<T> output;
  strided<const T> input;
  const T* weight;
  const T* bias;  // layer norm only
  int64_t width;
  float epsilon;
};

template <class T>
struct add_norm_arguments {
  strided<T> normed;
  strided<T> residual;
  const float* const* parts;  // [num_parts], one per rank
  int32_t num_parts;
  int64_t part_stride;
  const T* weight;
  float epsilon;
  int64_t width;
  const int32_t* row_map;  // null: no deepstack level
  strided<const T> pool;
  int64_t pool_rows;
};

template <class T>
struct unary_arguments {
  strided<T> output;
  strided<const T> input;
  int64_t width;  // of the output
};

template <class T>
struct position_embedding_arguments {
  strided<T> x;
  strided<const T> table;
  int64_t width;
  int32_t side;
  strided<const int32_t> coordinates;
};

template <class T>
struct vision_rope_arguments {
  strided<T> qkv;
  int32_t num_heads;
  int64_t head_dim;
  strided<const int32_t> coordinates;
  const float* inverse_frequency;  // [head_dim / 4]
};

template <class T>
struct text_rope_arguments {
  strided<T> qkv;
  int32_t num_q_heads;
  int32_t num_kv_heads;
  int64_t head_dim;
  const T* q_weight;
  const T* k_weight;
  float epsilon;
  strided<const int32_t> positions;  // rows t, h, w
  const float* inverse_frequency;
  const int32_t* axis;
  float attention_factor;
  const int32_t* slot_mapping;
  T* cache;
  int64_t block_size;
};

/// The keys and values that one head of one sequence sees: row j of the keys lies at
/// keys + blocks[j / block_size] * block_stride + (j % block_size) * row_stride.
template <class T>
struct key_value_rows {
  const T* keys;
  const T* values;
  const int32_t* blocks;
  int64_t block_size;
  int64_t block_stride;
  int64_t row_stride;
};

/// Query rows of one attention task share their keys: `num_tokens` tokens times `group` heads.
template <class T>
struct attention_arguments {
  strided<T> output;       // [token], `group` heads of head_dim side by side
  strided<const T> query;  // alike
  int64_t num_tokens;
  int64_t group;
  int64_t head_dim;
  key_value_rows<T> cache;
  int64_t visible_first;  // keys that the first token sees
  int64_t visible_step;   // and how many more each next one: 1 causal, 0 all see the same
  float scale;
  float* scratch;  // attention_scratch_floats(head_dim)
};

/// Outputs of a block of packed weights, and the most rows that are few.
inline constexpr int64_t few_rows_block = 64;
inline constexpr int64_t few_rows_max = 32;

/// Rows times a packed weight, where reading the weight takes most of the time. Weights lie as
/// [block][in_features][64], and where two inputs meet in one multiplication (bf16) as
/// [block][in_features / 2][64][2]. A sum runs over the inputs in order, in parts of `part` inputs
/// that are added up, then the bias.
template <class T>
struct few_rows_arguments {
  const T* weights;
  int64_t block_elements;
  strided<const T> input;
  std::byte* output;
  dtype output_type;  // f32 or bf16
  int64_t output_stride;
  const float* bias;  // [out_features], or null
  int64_t in_features;
  int64_t out_features;
  int64_t rows;  // up to few_rows_max
  int64_t part;  // even
};

/// The most query rows of one task.
inline constexpr int64_t attention_rows_max = 64;
/// Keys that are scored at once; counted from key 0, so that a row's result does not depend on
/// which other rows share its task.
inline constexpr int64_t attention_key_tile = 32;
constexpr int64_t attention_scratch_floats(int64_t head_dim) {
  const int64_t padded = (head_dim + 31) / 32 * 32;  // two of the widest vectors
  return attention_key_tile * 2 * padded +
         attention_rows_max * (2 * padded + 5 * attention_key_tile);
}

template <class T>
struct activation_kernels {
  void (*rms_norm)(const norm_arguments<T>&, row_range);
  void (*layer_norm)(const norm_arguments<T>&, row_range);
  void (*add_norm)(const add_norm_arguments<T>&, row_range);
  void (*silu_and_mul)(const unary_arguments<T>&, row_range);
  void (*gelu_tanh)(const unary_arguments<T>&, row_range);
  void (*gelu_erf)(const unary_arguments<T>&, row_range);
  void (*add)(const unary_arguments<T>&, row_range);  // output += input
  void (*add_position_embedding)(const position_embedding_arguments<T>&, row_range);
  void (*vision_rope)(const vision_rope_arguments<T>&, row_range);
  void (*qk_norm_rope_cache_write)(const text_rope_arguments<T>&, row_range);
  void (*attention)(const attention_arguments<T>&);
  void (*to_float)(strided<float>, strided<const T>, int64_t width, row_range);
  void (*from_float)(strided<T>, strided<const float>, int64_t width, row_range);
  /// Blocks [first, last) of the outputs; null where the instruction set has no use for it.
  void (*multiply_few_rows)(const few_rows_arguments<T>&, row_range blocks);
};

struct kernel_table {
  const char* name;  // of the instruction set
  activation_kernels<float> f32;
  activation_kernels<bfloat16> bf16;
  /// accumulator += weight * row.
  void (*add_scaled)(float* accumulator, const float* row, float weight, int64_t width);
  /// The largest value, or NaN if any is NaN or infinite.
  float (*largest_finite)(const float* values, int64_t count);
  /// The first place of the largest value; no value may be NaN.
  int64_t (*place_of_largest)(const float* values, int64_t count);
  /// output = input, -infinity where the mask is 0.
  void (*copy_masked)(float* output, const float* input, const uint8_t* mask, int64_t count);
  /// Sum of exp(scale * (value - origin)).
  double (*sum_exp)(const float* values, int64_t count, float origin, float scale);
};

namespace generic {
extern const kernel_table kernels;
}
namespace avx2 {
extern const kernel_table kernels;
}
namespace avx512 {
extern const kernel_table kernels;
}
namespace avx512_bf16 {
/// The kernels of AVX-512, with those replaced that multiply bf16 pairs.
kernel_table replace_kernels(kernel_table kernels);
}  // namespace avx512_bf16

enum class instruction_set : uint8_t { generic, avx2, avx512, avx512_bf16 };

/// The widest set this processor has.
instruction_set best_instruction_set();
/// The kernels of `set`, which this processor must have.
const kernel_table& kernels_of(instruction_set set);

template <class T>
const activation_kernels<T>& activations_of(const kernel_table& table);
template <>
inline const activation_kernels<float>& activations_of<float>(const kernel_table& table) {
  return table.f32;
}
template <>
inline const activation_kernels<bfloat16>& activations_of<bfloat16>(const kernel_table& table) {
  return table.bf16;
}

}  // namespace troupe::gpu::cpu
