#include "gpu/cuda/kernels/exchange.hpp"

#include "gpu/cuda/kernels/lane.cuh"
#include "gpu/cuda/kernels/launch.cuh"
#include "gpu/cuda/kernels/numeric.cuh"
#include "gpu/cuda/kernels/typed.cuh"
#include "gpu/error.hpp"

#include <algorithm>
#include <string>

namespace troupe::gpu::cuda {
namespace {

/// `count` neighbouring elements as they lie in memory, 8 in 16-byte accesses or a single one.
template <class T, int32_t count>
struct packed;

template <class T>
struct packed<T, 1> {
  T value;
  __device__ static packed load(const T* address) { return {*address}; }
  __device__ void store(T* address) const { *address = value; }
  __device__ float get(int32_t) const { return to_f32(value); }
  __device__ void set(int32_t, float x) { value = from_f32<T>(x); }
};

template <class T>
struct packed<T, 8> {
  static constexpr int32_t part_size = vector16<T>::size;
  vector16<T> parts[8 / part_size];
  __device__ static packed load(const T* address) {
    packed result;
#pragma unroll
    for (int32_t i = 0; i < 8 / part_size; ++i) result.parts[i] = load16(address + i * part_size);
    return result;
  }
  __device__ void store(T* address) const {
#pragma unroll
    for (int32_t i = 0; i < 8 / part_size; ++i) store16(address + i * part_size, parts[i]);
  }
  __device__ float get(int32_t i) const {
    return parts[i / part_size].get(i % part_size);
  }
  __device__ void set(int32_t i, float x) {
    parts[i / part_size].set(i % part_size, x);
  }
};

template <class T, int32_t count>
__device__ __forceinline__ void load_values(float (&values)[count], const T* address) {
  const auto elements = packed<T, count>::load(address);
#pragma unroll
  for (int32_t i = 0; i < count; ++i) values[i] = elements.get(i);
}
template <class T, int32_t count>
__device__ __forceinline__ void store_values(T* address, const float (&values)[count]) {
  packed<T, count> elements;
#pragma unroll
  for (int32_t i = 0; i < count; ++i) elements.set(i, values[i]);
  elements.store(address);
}
template <int32_t count>
__device__ __forceinline__ void add_values(float (&sums)[count], const float (&values)[count]) {
#pragma unroll
  for (int32_t i = 0; i < count; ++i) sums[i] += values[i];
}

template <class T>
struct add_norm_rows {
  matrix<T> normed, residual;
  matrix<const float> partial;
  const T* norm_weight;
  matrix<const T> pool;  // null: no deepstack level
  const int32_t* row_map;
  const int32_t* live_rows;
  int32_t pool_rows;
  int32_t capacity;
  int32_t width;
  float epsilon;
};

/// A CTA's share of whole rows: each thread holds `slices` chunks of `count` elements, blockDim.x
/// chunks apart. A row is `width / count` chunks.
template <class T, int32_t count, int32_t slices>
class row_worker {
 public:
  using chunk = packed<T, count>;

  /// Reads the weights, which no kernel writes: may be made before `wait_for_predecessor`.
  __device__ explicit row_worker(const add_norm_rows<T>& a) : a_(a) {
    each_chunk([&](int32_t slice, int32_t place) {
      weight_[slice] = chunk::load(a.norm_weight + place * count);
    });
  }

  /// The calling thread's chunks: function(slice, chunk index in the row).
  template <class Function>
  __device__ void each_chunk(Function function) const {
#pragma unroll
    for (int32_t slice = 0; slice < slices; ++slice) {
      const auto place = static_cast<int32_t>(threadIdx.x + slice * blockDim.x);
      if (place * count < a_.width) function(slice, place);
    }
  }

  template <class Element>
  __device__ void load_row(const Element* source, float (&values)[slices][count]) const {
    each_chunk(
        [&](int32_t slice, int32_t place) { load_values(values[slice], source + place * count); });
  }
  template <class Element>
  __device__ void store_row(Element* target, const float (&values)[slices][count]) const {
    each_chunk(
        [&](int32_t slice, int32_t place) { store_values(target + place * count, values[slice]); });
  }
  __device__ void load_partial(int32_t row, float (&sums)[slices][count]) const {
    load_row(a_.partial.row(row), sums);
  }

  /// residual += round(sums) + pool row; normed = rms_norm(residual). All threads call it; `shared`
  /// holds a float per warp and is not the previous call's.
  __device__ void finish(int32_t row, const float (&sums)[slices][count], float* shared) const {
    const T* pool_row = pool_row_of(row);  // asked for first: the map's answer arrives with the row
    chunk residual[slices];
    T* residual_row = a_.residual.row(row);
    each_chunk([&](int32_t slice, int32_t place) {
      residual[slice] = chunk::load(residual_row + place * count);
#pragma unroll
      for (int32_t i = 0; i < count; ++i)
        residual[slice].set(i, residual[slice].get(i) + rounded<T>(sums[slice][i]));
    });
    if (pool_row != nullptr) add_pool_row(pool_row, residual);
    float squares = 0;
    each_chunk([&](int32_t slice, int32_t place) {
      residual[slice].store(residual_row + place * count);
#pragma unroll
      for (int32_t i = 0; i < count; ++i)
        squares += residual[slice].get(i) * residual[slice].get(i);
    });
    const float scale =
        rsqrtf(block_sum(squares, shared) / static_cast<float>(a_.width) + a_.epsilon);
    T* normed_row = a_.normed.row(row);
    each_chunk([&](int32_t slice, int32_t place) {
      chunk normed;
#pragma unroll
      for (int32_t i = 0; i < count; ++i)
        normed.set(i, weight_[slice].get(i) * rounded<T>(residual[slice].get(i) * scale));
      normed.store(normed_row + place * count);
    });
  }

 private:
  /// Null: no deepstack level, or a row without a picture.
  __device__ const T* pool_row_of(int32_t row) const {
    if (a_.pool.data == nullptr) return nullptr;
    const int32_t source = a_.row_map[row];
    return source >= 0 && source < a_.pool_rows ? a_.pool.row(source) : nullptr;
  }

  __device__ void add_pool_row(const T* pool_row, chunk (&residual)[slices]) const {
    each_chunk([&](int32_t slice, int32_t place) {
      const chunk values = chunk::load(pool_row + place * count);
#pragma unroll
      for (int32_t i = 0; i < count; ++i)
        residual[slice].set(i, residual[slice].get(i) + values.get(i));
    });
  }

  const add_norm_rows<T>& a_;
  chunk weight_[slices];
};

/// The largest block: one slice of 640 chunks is a row of 5120 elements; several slices need
/// registers.
constexpr int32_t block_max(int32_t slices) {
  return slices == 1 ? 640 : 512;
}

/// Sums over the block, of alternating rows.
using row_sums = float[2][block_max(1) / warp_size];

template <class T, int32_t count, int32_t slices>
__global__ void __launch_bounds__(block_max(slices))
    add_norm_kernel(const __grid_constant__ add_norm_rows<T> a) {
  release_successor();
  __shared__ row_sums shared;
  const row_worker<T, count, slices> worker(a);
  wait_for_predecessor();
  const int32_t rows = live(a.live_rows, a.capacity);
  uint32_t turn = 0;
  for (auto row = static_cast<int32_t>(blockIdx.x); row < rows; row += gridDim.x) {
    float sums[slices][count];
    worker.load_partial(row, sums);
    worker.finish(row, sums, shared[turn++ % 2]);
  }
}

/// One shot: every rank sends every row to every peer as words, and adds what it receives.
template <class T, int32_t count, int32_t slices>
__device__ void reduce_by_words(const row_worker<T, count, slices>& worker, lane_round& round,
                                int32_t rows, int32_t width, row_sums& shared) {
  const int32_t chunks = width / count;
  const auto place_of = [&](int32_t row, int32_t chunk) {
    return int64_t{row} * (count == 1 ? width : width / 2) + chunk;
  };
  float own[slices][count];
  for (auto row = static_cast<int32_t>(blockIdx.x); row < rows; row += gridDim.x) {
    worker.load_partial(row, own);
    worker.each_chunk([&](int32_t slice, int32_t chunk) {
      round.send(own[slice], place_of(row, chunk), chunks);
    });
  }
  uint32_t turn = 0;
  for (auto row = static_cast<int32_t>(blockIdx.x); row < rows; row += gridDim.x) {
    float sums[slices][count] = {};
    worker.load_partial(row, own);
    for (int32_t rank = 0; rank < round.size(); ++rank)
      worker.each_chunk([&](int32_t slice, int32_t chunk) {
        float part[count];
        if (rank != round.rank()) {
          round.receive(part, rank, place_of(row, chunk), chunks);
          add_values(sums[slice], part);
        } else {
          add_values(sums[slice], own[slice]);
        }
      });
    worker.finish(row, sums, shared[turn++ % 2]);
  }
}

/// Where a two-shot exchange keeps rows. Row i belongs to rank i % ranks. The data of its owner's
/// slot holds a section per sender; the owner's own section takes the sums.
struct section_layout {
  int32_t ranks;
  int32_t rows_per_section;
  int32_t width;

  __device__ section_layout(int32_t num_ranks, int32_t rows, int32_t row_width)
      : ranks(num_ranks), rows_per_section((rows + num_ranks - 1) / num_ranks), width(row_width) {}

  __device__ int32_t owner_of(int32_t row) const { return row % ranks; }
  template <class T>
  __device__ T* row_of(const lane_round& round, int32_t sender, int32_t row) const {
    const int64_t index = int64_t{sender} * rows_per_section + row / ranks;
    return reinterpret_cast<T*>(round.data(owner_of(row)) +
                                index * width * static_cast<int64_t>(sizeof(float)));
  }
};

/// Calls function(row) for the CTA's rows: groups of one row per owner, so that every CTA of a rank
/// has rows of every owner, and meets CTAs of its own index alone.
template <class Function>
__device__ void each_group_row(int32_t rows, int32_t ranks, Function function) {
  const auto step = static_cast<int32_t>(gridDim.x) * ranks;
  for (auto first = static_cast<int32_t>(blockIdx.x) * ranks; first < rows; first += step)
    for (int32_t row = first; row < min(first + ranks, rows); ++row) function(row);
}

/// Two shots: partial rows go to their owners, who add them; everybody fetches the sums.
template <class T, int32_t count, int32_t slices>
__device__ void reduce_by_owners(const row_worker<T, count, slices>& worker, lane_round& round,
                                 int32_t rows, int32_t width, row_sums& shared) {
  const section_layout layout(round.size(), rows, width);
  const int32_t self = round.rank();
  float values[slices][count];
  each_group_row(rows, round.size(), [&](int32_t row) {
    if (layout.owner_of(row) == self) return;
    worker.load_partial(row, values);
    worker.store_row(layout.row_of<float>(round, self, row), values);
  });
  round.meet_peers(lane_phase::scattered);
  each_group_row(rows, round.size(), [&](int32_t row) {
    if (layout.owner_of(row) != self) return;
    float sums[slices][count] = {};
    for (int32_t rank = 0; rank < round.size(); ++rank) {
      if (rank == self)
        worker.load_partial(row, values);
      else
        worker.load_row(layout.row_of<const float>(round, rank, row), values);
#pragma unroll
      for (int32_t slice = 0; slice < slices; ++slice) add_values(sums[slice], values[slice]);
    }
    worker.store_row(layout.row_of<T>(round, self, row), sums);
  });
  round.meet_peers(lane_phase::reduced);
  uint32_t turn = 0;
  each_group_row(rows, round.size(), [&](int32_t row) {
    worker.load_row(layout.row_of<const T>(round, layout.owner_of(row), row), values);
    worker.finish(row, values, shared[turn++ % 2]);
  });
}

template <class T, int32_t count, int32_t slices>
__global__ void __launch_bounds__(block_max(slices))
    all_reduce_add_norm_kernel(const __grid_constant__ add_norm_rows<T> a,
                               const __grid_constant__ lane_view lane) {
  release_successor();
  __shared__ row_sums shared;
  const row_worker<T, count, slices> worker(a);
  wait_for_predecessor();
  const int32_t rows = live(a.live_rows, a.capacity);
  if (rows == 0) return;
  lane_round round(lane);
  if (!round.usable()) return;
  if (int64_t{rows} * a.width <= lane_round::words_per_sender(lane.size))
    reduce_by_words(worker, round, rows, a.width, shared);
  else
    reduce_by_owners(worker, round, rows, a.width, shared);
  round.complete();
}

constexpr int32_t gather_block = 256;

/// Columns side by side, in chunks of `count`: thread by thread over rows and columns.
struct gather_rows_layout {
  matrix<float> output;
  matrix<const float> part;
  const int32_t* live_rows;
  int32_t capacity;
  int32_t width;  // of a part

  /// Calls function(index, row, column) for the calling thread's chunks.
  template <int32_t count, class Function>
  __device__ void each_chunk(int32_t rows, Function function) const {
    const int32_t chunks = width / count;
    const int64_t total = int64_t{rows} * chunks, step = int64_t{gridDim.x} * gather_block;
    for (int64_t index = int64_t{blockIdx.x} * gather_block + threadIdx.x; index < total;
         index += step)
      function(index, index / chunks, static_cast<int32_t>(index % chunks) * count);
  }

  template <int32_t count>
  __device__ void place(int64_t row, int32_t rank, int32_t column,
                        const float (&values)[count]) const {
    store_values(output.row(row) + int64_t{rank} * width + column, values);
  }
};

template <int32_t count>
__global__ void __launch_bounds__(gather_block)
    copy_columns_kernel(const __grid_constant__ gather_rows_layout a) {
  release_successor();
  wait_for_predecessor();
  a.each_chunk<count>(live(a.live_rows, a.capacity), [&](int64_t, int64_t row, int32_t column) {
    float values[count];
    load_values(values, a.part.row(row) + column);
    a.place(row, 0, column, values);
  });
}

/// One shot by words where the message fits them.
template <int32_t count>
__device__ void gather_by_words(const gather_rows_layout& a, lane_round& round, int32_t rows) {
  const int64_t chunks = int64_t{rows} * (a.width / count);
  float values[count];
  a.each_chunk<count>(rows, [&](int64_t index, int64_t row, int32_t column) {
    load_values(values, a.part.row(row) + column);
    round.send(values, index, chunks);
    a.place(row, round.rank(), column, values);
  });
  for (int32_t rank = 0; rank < round.size(); ++rank) {
    if (rank == round.rank()) continue;
    a.each_chunk<count>(rows, [&](int64_t index, int64_t row, int32_t column) {
      round.receive(values, rank, index, chunks);
      a.place(row, rank, column, values);
    });
  }
}

/// Every rank lays its part open in its own slot; the peers fetch it.
template <int32_t count>
__device__ void gather_by_fetching(const gather_rows_layout& a, lane_round& round, int32_t rows) {
  float values[count];
  auto* own = reinterpret_cast<float*>(round.data(round.rank()));
  a.each_chunk<count>(rows, [&](int64_t index, int64_t row, int32_t column) {
    load_values(values, a.part.row(row) + column);
    store_values(own + index * count, values);
    a.place(row, round.rank(), column, values);
  });
  round.meet_peers(lane_phase::scattered);
  for (int32_t turn = 1; turn < round.size(); ++turn) {
    const int32_t rank = (round.rank() + turn) % round.size();  // not all from one rank at once
    const auto* theirs = reinterpret_cast<const float*>(round.data(rank));
    a.each_chunk<count>(rows, [&](int64_t index, int64_t row, int32_t column) {
      load_values(values, theirs + index * count);
      a.place(row, rank, column, values);
    });
  }
}

template <int32_t count>
__global__ void __launch_bounds__(gather_block)
    all_gather_columns_kernel(const __grid_constant__ gather_rows_layout a,
                              const __grid_constant__ lane_view lane) {
  release_successor();
  wait_for_predecessor();
  const int32_t rows = live(a.live_rows, a.capacity);
  if (rows == 0) return;
  lane_round round(lane);
  if (!round.usable()) return;
  if (int64_t{rows} * a.width <= lane_round::words_per_sender(lane.size))
    gather_by_words<count>(a, round, rows);
  else
    gather_by_fetching<count>(a, round, rows);
  round.complete();
}

/// CTAs of a kernel that exchanges: all of them run at once, and each has its flags.
uint32_t exchange_grid(int64_t work, const launch_context& on) {
  const int64_t most = std::min(on.exchange_ctas, lane_ctas_max);
  return static_cast<uint32_t>(std::max<int64_t>(1, std::min(work, most)));
}

void expect_slots(const lane_view& lane, int64_t rows, int64_t width) {
  const int64_t expected = lane_slot_bytes(rows, width);
  if (lane.size > 1 && lane.slot_bytes < expected)
    throw error("slots of " + std::to_string(lane.slot_bytes) + " bytes, expected " +
                std::to_string(expected) + " for " + std::to_string(rows) + " x " +
                std::to_string(width) + " values");
}

template <class T, int32_t count, int32_t slices>
void launch_rows(const add_norm_rows<T>& rows, const lane_view& lane, const launch_context& on) {
  const int32_t per_warp = warp_size * slices;
  const int32_t chunks = rows.width / count;
  const auto block = static_cast<uint32_t>((chunks + per_warp - 1) / per_warp * warp_size);
  if (lane.size == 1)
    launch_kernel("add_norm", add_norm_kernel<T, count, slices>,
                  static_cast<uint32_t>(rows.capacity), block, 0, on, rows);
  else
    launch_kernel("all_reduce_add_norm", all_reduce_add_norm_kernel<T, count, slices>,
                  exchange_grid(rows.capacity, on), block, 0, on, rows, lane);
}

}  // namespace

void launch_all_reduce_add_norm(const all_reduce_add_norm_arguments& a, const launch_context& on) {
  const int64_t capacity = a.residual.rows(), width = a.residual.width();
  const bool deepstack = a.pool_level.rank != 0;
  expect_slots(a.lane, capacity, width);
  with_activation(a.residual.type, [&]<class T>(T) {
    const add_norm_rows<T> rows{matrix_of<T>(a.normed),
                                matrix_of<T>(a.residual),
                                matrix_of<const float>(a.partial),
                                a.norm_weight.as<const T>(),
                                matrix_of<const T>(a.pool_level),
                                a.row_map.as<const int32_t>(),
                                a.live,
                                static_cast<int32_t>(a.pool_level.rows()),
                                static_cast<int32_t>(capacity),
                                static_cast<int32_t>(width),
                                a.epsilon};
    const bool vectors = width % 8 == 0 && in_vectors(a.normed) && in_vectors(a.residual) &&
                         in_vectors(a.partial) && in_vectors(a.norm_weight) &&
                         (!deepstack || in_vectors(a.pool_level));
    constexpr int32_t vector_slices = 2, scalar_slices = 8;
    const int64_t most = vectors ? 8 * vector_slices * block_max(vector_slices)
                                 : scalar_slices * block_max(scalar_slices);
    if (width > most)
      throw error("rows of " + std::to_string(width) + " elements, expected at most " +
                  std::to_string(most));
    if (!vectors)
      launch_rows<T, 1, scalar_slices>(rows, a.lane, on);
    else if (width <= 8 * block_max(1))
      launch_rows<T, 8, 1>(rows, a.lane, on);
    else
      launch_rows<T, 8, vector_slices>(rows, a.lane, on);
  });
}

void launch_all_gather_columns(const all_gather_columns_arguments& a, const launch_context& on) {
  const int64_t capacity = a.output.rows(), width = a.part.width();
  if (a.lane.size == 1 && a.output.data == a.part.data) return;
  expect_slots(a.lane, capacity, width);
  const gather_rows_layout rows{matrix_of<float>(a.output), matrix_of<const float>(a.part), a.live,
                                static_cast<int32_t>(capacity), static_cast<int32_t>(width)};
  const auto launch = [&](auto copy, auto gather, int64_t chunk) {
    const int64_t blocks = (capacity * width / chunk + gather_block - 1) / gather_block;
    if (a.lane.size == 1)
      launch_kernel("copy_columns", copy,
                    static_cast<uint32_t>(std::clamp<int64_t>(blocks, 1, 8 * on.num_sms)),
                    gather_block, 0, on, rows);
    else
      launch_kernel("all_gather_columns", gather, exchange_grid(blocks, on), gather_block, 0, on,
                    rows, a.lane);
  };
  if (width % 8 == 0 && in_vectors(a.output) && in_vectors(a.part))
    launch(copy_columns_kernel<8>, all_gather_columns_kernel<8>, 8);
  else
    launch(copy_columns_kernel<1>, all_gather_columns_kernel<1>, 1);
}

}  // namespace troupe::gpu::cuda
