#pragma once

#include "gpu/cuda/kernels/launch.hpp"
#include "gpu/tensor_view.hpp"

#include <cstdint>

namespace troupe::gpu::cuda {

/// Causal attention of each sequence's new tokens over its paged context, as
/// operations::paged_attention states it. All pointers are device memory; strides in elements.
///
/// output  [max_tokens, num_q_heads * head_dim]                     `type`, 16-byte aligned rows
/// qkv     [max_tokens, (num_q_heads + 2 num_kv_heads) * head_dim]  `type`, 16-byte aligned rows
/// cache   [num_blocks, 2, num_kv_heads, block_size, head_dim]      `type`
/// scratch paged_attention_scratch_bytes(...) bytes, zeroed once before the first launch; launches
/// that
///         may overlap need memory of their own, launches of one stream share it
///
/// query_start, context_lengths, block_tables, sequences and tokens are inputs of the step that
/// only copies write: they are read before the predecessor has ended.
struct paged_attention_arguments {
  dtype type = dtype::bf16;
  void* output = nullptr;
  int64_t output_stride = 0;
  const void* qkv = nullptr;
  int64_t qkv_stride = 0;
  const void* cache = nullptr;
  int32_t num_q_heads = 0;
  int32_t num_kv_heads = 0;
  int32_t head_dim = 0;
  int32_t block_size = 0;
  const int32_t* query_start = nullptr;      // [max_sequences + 1]
  const int32_t* context_lengths = nullptr;  // [max_sequences]
  const int32_t* block_tables = nullptr;     // [max_sequences, block_tables_stride]
  int64_t block_tables_stride = 0;
  const int32_t* sequences = nullptr;  // live count
  const int32_t* tokens = nullptr;     // live count
  int32_t max_sequences = 0;           // of the bucket: no more than max_tokens are used
  int32_t max_tokens = 0;
  void* scratch = nullptr;
};

/// Query heads that may share a key-value head on the tensor cores.
constexpr int32_t attention_group_max = 16;

/// A sequence of at most so many new tokens is read by many CTAs, each a part of its keys (decode);
/// a longer one by tiles of its tokens (prefill). A bucket of no more tokens launches decode alone.
constexpr int32_t decode_tokens_max = 16;

/// Scratch memory for any bucket of at most `max_sequences` sequences. Launches of other shapes may
/// use the same memory, one after another. Throws gpu::error for more sequences and heads than
/// there are counters (262,080 sequences times query heads, about).
int64_t paged_attention_scratch_bytes(int32_t num_q_heads, int32_t num_kv_heads, int32_t head_dim,
                                      int32_t max_sequences);

/// Enqueues one kernel or two. Takes head_dim 32, 64 and 128 in bf16 on the tensor cores; any other
/// multiple of 8 up to 128, wider groups, and f32, by a plain kernel; block_size a power of two
/// from 8 to 256; num_q_heads a multiple of num_kv_heads. A result depends on the sequence's own
/// tokens and length alone, not on its neighbours.
void launch_paged_attention(const paged_attention_arguments& arguments, const launch_context& on);

/// How heads of the step's tokens are normed and rotated, and where keys and values of a token
/// belong, as operations::qk_norm_rope_cache_write states it. Device memory that no kernel writes.
struct new_head_arguments {
  const void* q_weight = nullptr;  // [head_dim]
  const void* k_weight = nullptr;
  float epsilon = 0;
  const int32_t* positions = nullptr;  // [3, positions_stride]
  int32_t positions_stride = 0;
  const float* inverse_frequency = nullptr;  // [head_dim / 2]
  const int32_t* axis = nullptr;
  float attention_factor = 1;
  const int32_t* slot_mapping = nullptr;  // [max_tokens]
  void* cache = nullptr;                  // the arguments' cache
};

/// Steps of more tokens are faster with a kernel for their heads: every split of a sequence would
/// wait for its heads anew.
constexpr int32_t new_heads_tokens_max = 1;
static_assert(new_heads_tokens_max <= decode_tokens_max);

/// Whether `launch_new_heads_attention` takes these: bf16 on the tensor cores, at most
/// `new_heads_tokens_max` tokens.
bool takes_new_heads(const paged_attention_arguments& arguments);

/// Norms, rotates and writes the heads of the step's tokens, and attends, in one kernel: the same
/// bits in the cache and in the output as one after the other. A sequence finds its own new tokens
/// in qkv, so none may read keys that another one's new tokens bring; older keys are read before
/// the predecessor has ended, so what wrote them must have ended before this step began (the copy
/// of its inputs sees to that). qkv is left as it is.
void launch_new_heads_attention(const paged_attention_arguments& arguments,
                                const new_head_arguments& heads, const launch_context& on);

}  // namespace troupe::gpu::cuda
