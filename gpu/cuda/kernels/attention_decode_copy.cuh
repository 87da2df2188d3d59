#pragma once

#include "gpu/cuda/kernels/attention_decode_plan.cuh"
#include "gpu/cuda/kernels/launch.cuh"

#include <cstdint>
#include <limits>

namespace troupe::gpu::cuda::decode {

/// The copying warp. `rotates`: it copies what the cache holds of earlier steps; the consumers
/// bring the rest from qkv.
template <int32_t head_dim, int32_t num_stages, bool rotates>
struct producer {
  static constexpr uint32_t row_bytes = head_dim * sizeof(bf16);
  static constexpr int32_t all_tiles = std::numeric_limits<int32_t>::max();

  const parameters& p;
  shared_memory<head_dim, num_stages>& shared;
  int32_t lane;
  ring_place<num_stages> place;

  /// Number of tasks before each sequence, and in all.
  __device__ int32_t count_tasks(int32_t sequences) {
    int32_t before = 0;
    for (int32_t first = 0; first < sequences; first += warp_size) {
      const int32_t i = first + lane;
      const int32_t own = i < sequences ? plan_of(p, p.call.step.at(i)).tasks() : 0;
      const int32_t through = before + warp_inclusive_sum(own, lane);
      if (i < sequences) shared.task_start[i + 1] = through;
      before = __shfl_sync(all_lanes, through, warp_size - 1);
    }
    if (lane == 0) shared.task_start[0] = 0;
    __syncwarp();
    return before;
  }

  /// Keys that one task reads, and what all its tiles have in common.
  struct task_keys {
    tile_note note;
    const int32_t* table;
    int32_t begin;
    int32_t end;
    int32_t next;  // first key that is not yet copied
  };

  /// Tasks of a sequence are ordered by tile of tokens, then split; the heads of one follow each
  /// other.
  __device__ task_keys keys_of(int32_t task, int32_t sequences) const {
    const int32_t kv_head = task % p.call.num_kv_heads;
    const int32_t rest = task / p.call.num_kv_heads;
    const int32_t sequence = last_at_most(shared.task_start, sequences, rest);
    const sequence_span span = p.call.step.at(sequence);
    const split_plan plan = plan_of(p, span);
    const int32_t local = rest - shared.task_start[sequence];
    const int32_t token = local / plan.splits * p.tokens_per_tile;

    tile_note note{};
    note.tokens = min(p.tokens_per_tile, span.tokens - token);
    note.visible_first = p.call.visible_keys(span, token);
    note.first_token = span.first + token;
    note.sequence_first = span.first;
    note.first_new = span.context - span.tokens;
    note.kv_head = kv_head;
    note.split = local % plan.splits;
    const int32_t visible = note.visible_first + note.tokens - 1;
    note.splits = (visible + plan.split_keys - 1) / plan.split_keys;
    note.first_partial = sequence * p.max_splits + token * plan.splits;
    note.partial_tokens = plan.splits;
    note.arrivals = (sequence * token_tiles_max(p.tokens_per_tile) + token / p.tokens_per_tile) *
                        p.call.num_kv_heads +
                    kv_head;
    const int32_t begin = note.split * plan.split_keys;  // past the end where only later tokens see
    return {note, p.call.keys.table(sequence), begin, min(begin + plan.split_keys, visible), begin};
  }

  /// Keys that lie together, as far as one tile may want them.
  __device__ int32_t piece_keys() const { return min(p.call.keys.block_size(), tile_keys); }

  /// Brings to L2 what the ring can take of a task, while the predecessor still runs. It may be
  /// writing the newest of these keys, which is why they are not yet copied.
  __device__ void prefetch(const task_keys& task) const {
    const int32_t end = min(task.end, task.begin + num_stages * tile_keys);
    for (int32_t key = task.begin + lane * piece_keys(); key < end;
         key += warp_size * piece_keys()) {
      const bf16* row = p.call.keys.row(task.table, key, task.note.kv_head);
      const uint32_t bytes = static_cast<uint32_t>(min(piece_keys(), end - key)) * row_bytes;
      prefetch_l2(row, bytes);
      prefetch_l2(row + p.call.keys.value_offset(), bytes);
    }
  }

  /// Copies at most `tiles` tiles of what is left of a task.
  __device__ void copy(task_keys& task, int32_t tiles) {
    tile_note& note = task.note;
    for (; task.next < task.end && tiles > 0; task.next += tile_keys, --tiles) {
      note.first_key = task.next;
      note.keys = min(tile_keys, task.end - task.next);
      note.flags = (task.next == task.begin ? first_tile : 0) |
                   (task.next + tile_keys >= task.end ? last_tile : 0);
      copy_tile(note, task.table);
    }
  }

  __device__ void copy_tile(const tile_note& note, const int32_t* table) {
    auto& stage = shared.stages[place.index];
    uint64_t* full = &shared.full[place.index];
    // Lanes 0 to 15 copy keys, lanes 16 to 31 values.
    const int32_t cached = cached_keys(note);
    const int32_t first = lane % (warp_size / 2) * piece_keys();
    const int32_t rows = min(piece_keys(), cached - first);
    const bf16* source = nullptr;
    if (rows > 0) source = p.call.keys.row(table, note.first_key + first, note.kv_head);

    barrier_wait(&shared.empty[place.index], place.parity ^ 1);
    if (lane == 0) {
      const bool with_query = !rotates && (note.flags & first_tile) != 0;
      const int32_t rows_copied = with_query ? note.tokens * p.call.group : 0;
      shared.notes[place.index] = note;
      barrier_arrive_expecting(full, row_bytes * static_cast<uint32_t>(2 * cached + rows_copied));
      for (int32_t row = 0; row < rows_copied; row += p.call.group)
        copy_bulk(
            stage.query[row],
            p.call.query_row(note.first_token + row / p.call.group, note.kv_head * p.call.group),
            static_cast<uint32_t>(p.call.group) * row_bytes, full);
    }
    __syncwarp();
    if (rows > 0) {
      const bool keys = lane < warp_size / 2;
      copy_bulk(keys ? stage.keys[first] : stage.values[first],
                keys ? source : source + p.call.keys.value_offset(),
                static_cast<uint32_t>(rows) * row_bytes, full);
    }
    place.advance();
  }

  /// Keys of a tile that are in the cache.
  __device__ int32_t cached_keys(const tile_note& note) const {
    if constexpr (!rotates) return note.keys;
    return min(max(note.first_new - note.first_key, 0), note.keys);
  }

  __device__ void finish() {
    barrier_wait(&shared.empty[place.index], place.parity ^ 1);
    if (lane == 0) {
      shared.notes[place.index].keys = 0;
      barrier_arrive(&shared.full[place.index]);
    }
  }

  /// CTA i begins with task i and goes on with tasks that no other CTA has taken. The last fetch of
  /// all, one that finds nothing, sets the counter back.
  __device__ void run() {
    const int32_t sequences = p.call.step.live_sequences();
    const int32_t tasks = count_tasks(sequences) * p.call.num_kv_heads;
    const auto grid = static_cast<int32_t>(gridDim.x);
    const int32_t fetches = max(tasks - grid, 0) + min(grid, tasks);
    auto index = static_cast<int32_t>(blockIdx.x);
    task_keys task{};
    if (index < tasks) task = keys_of(index, sequences);
    if constexpr (rotates) {
      if (lane == 0) shared.first_token = index < tasks ? task.note.first_token : -1;
      named_barrier_arrive(first_token_barrier, warp_size + consumer_threads);
      copy(task, num_stages);  // of earlier steps: no kernel of this one writes them
    } else if (index < tasks) {
      prefetch(task);
    }
    wait_for_predecessor();
    while (index < tasks) {
      const int32_t fetched = lane == 0 ? atomicAdd(p.scratch.next_task, 1) : 0;
      copy(task, all_tiles);
      if (lane == 0 && fetched == fetches - 1) *p.scratch.next_task = 0;
      index = grid + __shfl_sync(all_lanes, fetched, 0);
      if (index < tasks) task = keys_of(index, sequences);
    }
    finish();
  }
};

}  // namespace troupe::gpu::cuda::decode
