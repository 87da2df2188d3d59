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

}  // namespace troupe::gpu::cuda
