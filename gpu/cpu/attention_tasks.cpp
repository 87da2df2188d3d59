#include "gpu/cpu/attention_tasks.hpp"

#include "gpu/cpu/typed.hpp"

#include <algorithm>
#include <cmath>

namespace troupe::gpu::cpu {
namespace {

/// New tokens [first, first + count) of the step, all of one sequence.
struct token_span {
  int64_t first = 0;
  int64_t count = 0;
};

/// Tokens between two boundaries, kept inside the step whatever the boundaries say.
token_span span_between(const int32_t* starts, int64_t index, int64_t tokens) {
  const int64_t first = std::clamp<int64_t>(starts[index], 0, tokens);
  return {first, std::clamp<int64_t>(starts[index + 1], first, tokens) - first};
}

/// Cuts every sequence into tiles of at most `tile_tokens` tokens and calls
/// attend(sequence, tile, head, scratch) for each tile and head, spread over the team.
template <class Attend>
void for_tiles(const context& context, const int32_t* starts, int64_t sequences, int64_t tokens,
               int64_t tile_tokens, int64_t heads, int64_t head_dim, const Attend& attend) {
  auto* tiles_before = context.task_scratch.as<int64_t>();  // [sequences + 1]
  tiles_before[0] = 0;
  for (int64_t i = 0; i < sequences; ++i) {
    const int64_t count = span_between(starts, i, tokens).count;
    tiles_before[i + 1] = tiles_before[i] + (count + tile_tokens - 1) / tile_tokens;
  }
  context.threads.for_tasks(tiles_before[sequences] * heads, [&](int64_t task, int32_t thread) {
    const int64_t tile = task / heads;
    const int64_t* after = std::upper_bound(tiles_before, tiles_before + sequences + 1, tile);
    const int64_t sequence = after - tiles_before - 1;
    const token_span whole = span_between(starts, sequence, tokens);
    const int64_t offset = (tile - tiles_before[sequence]) * tile_tokens;
    float* scratch =
        context.thread_scratch.as<float>() + thread * attention_scratch_floats(head_dim);
    attend(sequence, whole,
           token_span{whole.first + offset, std::min(tile_tokens, whole.count - offset)},
           task % heads, scratch);
  });
}

float scale_of(int64_t head_dim) {
  return 1.0F / std::sqrt(static_cast<float>(head_dim));
}

template <class T>
void attend_sequences_of(const context& context, const paged_attention_call& call, int64_t tokens) {
  const int64_t head_dim = call.head_dim;
  const int64_t kv_heads = call.cache.num_kv_heads;
  const int64_t group = call.num_q_heads / kv_heads;
  const int64_t head_span = call.cache.block_size * head_dim;
  const int64_t sequences =
      std::clamp<int64_t>(*call.batch.sequences.value, 0, call.batch.context_lengths.elements());
  const auto output = rows_of<T>(call.output);
  const auto query = rows_of<const T>(call.query);
  const T* blocks = call.cache.blocks.as<T>();
  const auto tables = rows_of<const int32_t>(call.batch.block_tables);
  const int32_t* lengths = call.batch.context_lengths.as<int32_t>();

  for_tiles(context, call.batch.query_start.as<int32_t>(), sequences, tokens,
            attention_rows_max / group, kv_heads, head_dim,
            [&](int64_t sequence, token_span whole, token_span tile, int64_t head, float* scratch) {
              const int64_t column = head * group * head_dim;
              const T* keys = blocks + head * head_span;
              // The sequence's last new token sees the whole context, each one before it one less.
              const int64_t before = lengths[sequence] - whole.count;
              attention_arguments<T> arguments{
                  {output.data + tile.first * output.stride + column, output.stride},
                  {query.data + tile.first * query.stride + column, query.stride},
                  tile.count,
                  group,
                  head_dim,
                  {keys, keys + kv_heads * head_span, tables.data + sequence * tables.stride,
                   call.cache.block_size, 2 * kv_heads * head_span, head_dim},
                  before + tile.first - whole.first + 1,
                  1,
                  scale_of(head_dim),
                  scratch};
              activations_of<T>(context.kernels).attention(arguments);
            });
}

template <class T>
void attend_segments_of(const context& context, const segment_attention_call& call,
                        int64_t segments, int64_t patches) {
  static constexpr int32_t only_block = 0;
  const int64_t head_dim = call.head_dim;
  const int64_t span = call.num_heads * head_dim;
  const auto output = rows_of<T>(call.output);
  const auto qkv = rows_of<const T>(call.qkv);
  for_tiles(context, call.segment_start.as<int32_t>(), segments, patches, attention_rows_max,
            call.num_heads, head_dim,
            [&](int64_t, token_span whole, token_span tile, int64_t head, float* scratch) {
              const int64_t column = head * head_dim;
              const T* keys = qkv.data + whole.first * qkv.stride + span + column;
              attention_arguments<T> arguments{
                  {output.data + tile.first * output.stride + column, output.stride},
                  {qkv.data + tile.first * qkv.stride + column, qkv.stride},
                  tile.count,
                  1,
                  head_dim,
                  {keys, keys + span, &only_block, whole.count, 0, qkv.stride},
                  whole.count,
                  0,
                  scale_of(head_dim),
                  scratch};
              activations_of<T>(context.kernels).attention(arguments);
            });
}

}  // namespace

void reserve_attention_scratch(context& context, int64_t head_dim, int64_t max_sequences) {
  context.thread_scratch.reserve(context.threads.size() * attention_scratch_floats(head_dim) *
                                 size_of(dtype::f32));
  context.task_scratch.reserve((max_sequences + 1) * size_of(dtype::i64));
}

void attend_sequences(const context& context, const paged_attention_call& call, int64_t tokens) {
  with_activation(call.output.type,
                  [&]<class T>(T) { attend_sequences_of<T>(context, call, tokens); });
}

void attend_segments(const context& context, const segment_attention_call& call, int64_t segments,
                     int64_t patches) {
  with_activation(call.output.type,
                  [&]<class T>(T) { attend_segments_of<T>(context, call, segments, patches); });
}

}  // namespace troupe::gpu::cpu
