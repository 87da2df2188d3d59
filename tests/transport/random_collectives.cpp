#include "transport/random_collectives.hpp"

#include "config/ensure.hpp"
#include "gpu/bfloat16.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/operations.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <utility>

namespace troupe::testing {
namespace {

// Values repeat with the row and the column, so that a reference of few values stands for all of
// them. The periods are prime: a shift by a vector, a chunk or a row group shows.
constexpr int32_t row_period = 7;
constexpr int32_t column_period = 61;

constexpr int32_t num_parts = 5;   // matrices that collectives send, in turn: what is stale shows
constexpr int32_t num_levels = 4;  // of the pool; the first is not added
constexpr int32_t pool_rows = 5;
constexpr int32_t num_counts = 3;  // live counts that a graph reads
constexpr int32_t ops_per_graph = 50;
constexpr std::chrono::seconds lane_timeout{60};

struct shape {
  int64_t capacity;
  int64_t width;
};

/// On a device short messages go as flagged words and long ones in two shots; with 128 rows of 4096
/// the live count alone decides.
std::vector<shape> shapes_of(gpu::device_kind device) {
  if (device == gpu::device_kind::cpu) return {{1, 4096}, {8, 640}, {24, 77}, {40, 512}};
  return {{1, 4096}, {8, 5120}, {33, 77}, {64, 1000}, {128, 4096}, {300, 2048}};
}
int64_t largest_message(gpu::device_kind device) {
  int64_t elements = 0;
  for (const auto& each : shapes_of(device)) {
    const int64_t whole = (each.capacity + gpu::max_ranks - 1) / gpu::max_ranks * gpu::max_ranks;
    elements = std::max(elements, whole * each.width);
  }
  return elements;
}

/// One value of each kind that a rank has in a matrix: fractions and magnitudes such that the order
/// of a sum matters.
std::vector<float> make_part_values() {
  std::vector<float> values;
  for (uint64_t place = 1;
       place <= uint64_t{num_parts} * gpu::max_ranks * row_period * column_period; ++place) {
    const uint64_t bits = place * 0x9e3779b97f4a7c15U;
    const auto fraction =
        static_cast<float>(static_cast<int32_t>(bits >> 40) - (1 << 23)) * 0x1p-23F;
    values.push_back(fraction * static_cast<float>(1 << (bits % 5)));
  }
  return values;
}

/// What rank `rank` has in a row of matrix `part`: one period of columns.
const float* part_row(int32_t part, int32_t rank, int64_t row) {
  static const std::vector<float> values = make_part_values();
  const int64_t place = (int64_t{part} * gpu::max_ranks + rank) * row_period + row % row_period;
  return values.data() + place * column_period;
}
float pool_value(int32_t level, int64_t row, int64_t column) {
  return static_cast<float>((level * 31 + row * 7 + column % column_period) % 64) * 0.125F - 4;
}
float initial_value(int64_t row, int64_t column) {
  return static_cast<float>((row % row_period * 3 + column % column_period) % 32) * 0.25F - 4;
}
int32_t pool_row_of(int64_t row) {
  const auto place = static_cast<int32_t>(row % row_period);
  return place % 3 == 1 ? place - 1 : -1;  // rows 0 and 3 of the pool
}

float rounded(gpu::dtype type, float value) {
  return type == gpu::dtype::bf16 ? gpu::to_float(gpu::to_bfloat16(value)) : value;
}

/// One collective of a graph, the same on all ranks.
struct collective {
  bool gather = false;
  int32_t part = 0;
  int32_t level = -1;  // of an all-reduce
  int32_t count = 0;   // which live count it reads
};

std::vector<collective> random_collectives(std::mt19937& random) {
  std::vector<collective> ops;
  for (int32_t i = 0; i < ops_per_graph; ++i) {
    collective next;
    next.gather = random() % 8 == 0;
    next.part = (i + static_cast<int32_t>(random() % 2)) % num_parts;
    next.level = static_cast<int32_t>(random() % num_levels);
    if (next.level == 0) next.level = -1;
    next.count = static_cast<int32_t>(random() % num_counts);
    ops.push_back(next);
  }
  return ops;
}

using live_counts = std::array<int32_t, num_counts>;

live_counts random_counts(std::mt19937& random, int64_t capacity) {
  live_counts counts{};
  for (auto& count : counts) {
    const uint32_t kind = random() % 8;
    const auto any = static_cast<int32_t>(random() % static_cast<uint32_t>(capacity + 1));
    count = kind == 0 ? 0 : kind < 3 ? static_cast<int32_t>(capacity) : any;
  }
  return counts;
}

using row_values = std::array<float, column_period>;

/// What the collectives leave in rows of one kind: those of one place in the period, for which the
/// same live counts hold.
struct expected_rows {
  row_values residual{};
  std::vector<row_values> gathered;  // [rank], added up
};

/// A reference: sums in rank order in fp32, each result rounded where the operations round.
class reference {
 public:
  reference(const std::vector<collective>& ops, gpu::dtype type, int32_t ranks)
      : ops_(ops), type_(type), ranks_(ranks) {}

  expected_rows rows_like(int64_t row, const live_counts& counts) const {
    expected_rows expected;
    expected.gathered.assign(static_cast<size_t>(ranks_), {});
    for (int32_t column = 0; column < column_period; ++column)
      expected.residual[static_cast<size_t>(column)] = rounded(type_, initial_value(row, column));
    for (const auto& op : ops_) {
      if (row >= counts[static_cast<size_t>(op.count)]) continue;
      op.gather ? gather(expected, op, row) : reduce(expected, op, row);
    }
    return expected;
  }

 private:
  void reduce(expected_rows& expected, const collective& op, int64_t row) const {
    row_values sums{};
    for (int32_t rank = 0; rank < ranks_; ++rank) add(sums, part_row(op.part, rank, row));
    const int32_t pool_row = pool_row_of(row);
    for (int32_t column = 0; column < column_period; ++column) {
      float& residual = expected.residual[static_cast<size_t>(column)];
      residual = rounded(type_, residual + rounded(type_, sums[static_cast<size_t>(column)]));
      if (op.level < 0 || pool_row < 0) continue;
      residual = rounded(type_, residual + rounded(type_, pool_value(op.level, pool_row, column)));
    }
  }
  void gather(expected_rows& expected, const collective& op, int64_t row) const {
    for (int32_t rank = 0; rank < ranks_; ++rank)
      add(expected.gathered[static_cast<size_t>(rank)], part_row(op.part, rank, row));
  }
  static void add(row_values& sums, const float* part) {
    for (size_t column = 0; column < sums.size(); ++column) sums[column] += part[column];
  }

  const std::vector<collective>& ops_;
  gpu::dtype type_;
  int32_t ranks_;
};

void store(std::byte* place, gpu::dtype type, double value) {
  const auto put = [&](const auto stored) { std::memcpy(place, &stored, sizeof stored); };
  if (type == gpu::dtype::f32)
    put(static_cast<float>(value));
  else if (type == gpu::dtype::bf16)
    put(gpu::to_bfloat16(static_cast<float>(value)));
  else
    put(static_cast<int32_t>(value));
}

/// `width` values with the period of columns, as they lie in memory.
std::vector<std::byte> bytes_of(const row_values& values, int64_t width, gpu::dtype type) {
  const auto size = gpu::size_of(type);
  std::vector<std::byte> bytes(static_cast<size_t>(std::max<int64_t>(width, column_period) * size));
  for (int32_t column = 0; column < column_period; ++column)
    store(bytes.data() + column * size, type,
          static_cast<double>(values[static_cast<size_t>(column)]));
  bytes.resize(static_cast<size_t>(width * size));
  // Whole periods, twice as many each time.
  for (auto filled = static_cast<size_t>(column_period * size); filled < bytes.size(); filled *= 2)
    std::memcpy(bytes.data() + filled, bytes.data(), std::min(filled, bytes.size() - filled));
  return bytes;
}

/// Tensors in memory of a backend, filled from the host.
class tensors {
 public:
  explicit tensors(gpu::operations& backend) : backend_(backend) {}

  gpu::tensor_view add(gpu::dtype type, std::initializer_list<int64_t> extents) {
    auto& memory = arenas_.emplace_back("tensor", backend_.memory());
    memory.reserve("tensor", type, extents);
    memory.seal();
    return memory.view(0);
  }
  template <class Value>  // value(row, column)
  gpu::tensor_view add_filled(gpu::dtype type, std::initializer_list<int64_t> extents,
                              Value value) {
    const gpu::tensor_view view = add(type, extents);
    std::vector<std::byte> host(static_cast<size_t>(view.span_bytes()));
    for (int64_t row = 0; row < view.rows(); ++row)
      for (int64_t column = 0; column < view.width(); ++column)
        store(host.data() + (row * view.row_stride + column) * gpu::size_of(type), type,
              static_cast<double>(value(row, column)));
    backend_.upload(view, host.data(), std::ssize(host));
    backend_.synchronize();
    return view;
  }
  std::vector<gpu::arena_lease> leases() const {
    std::vector<gpu::arena_lease> all;
    for (const auto& memory : arenas_) all.push_back(memory.lease());
    return all;
  }

 private:
  gpu::operations& backend_;
  std::deque<gpu::arena> arenas_;
};

/// What graphs of one shape and dtype work on, on one rank.
struct operand_set {
  shape extents;
  gpu::dtype type;
  int32_t ranks;
  tensors memory;
  std::vector<gpu::tensor_view> parts;
  gpu::tensor_view initial, zeros, identity, residual, normed, weight, row_map, pool, gathered, sum;
  std::array<gpu::tensor_view, num_counts> counts;
  gpu::tensor_view all_rows;
  std::shared_ptr<std::byte> found_residual, found_sum, found_normed;  // what was fetched

  operand_set(gpu::operations& backend, shape wanted, gpu::dtype dtype, const gpu::lane_view& lane)
      : extents(wanted), type(dtype), ranks(lane.size), memory(backend) {
    const auto [rows, width] = extents;
    const auto f32 = gpu::dtype::f32, i32 = gpu::dtype::i32;
    for (int32_t part = 0; part < num_parts; ++part)
      parts.push_back(memory.add_filled(f32, {rows, width}, [&](int64_t row, int64_t column) {
        return part_row(part, lane.rank, row)[column % column_period];
      }));
    initial = memory.add_filled(type, {rows, width}, initial_value);
    zeros = memory.add(f32, {rows, ranks * width});
    identity = memory.add_filled(i32, {rows}, [](int64_t, int64_t row) { return row; });
    residual = memory.add(type, {rows, width});
    normed = memory.add(type, {rows, width});
    weight = memory.add_filled(type, {width}, [](int64_t, int64_t) { return 1; });
    row_map = memory.add_filled(i32, {rows}, [](int64_t, int64_t row) { return pool_row_of(row); });
    pool =
        memory.add_filled(type, {num_levels, pool_rows, width}, [&](int64_t row, int64_t column) {
          return pool_value(static_cast<int32_t>(row / pool_rows), row % pool_rows, column);
        });
    gathered = memory.add(f32, {rows, ranks * width});
    sum = memory.add(f32, {rows, ranks * width});
    for (auto& count : counts) count = memory.add(i32, {1});
    all_rows = memory.add_filled(i32, {1}, [&](int64_t, int64_t) { return rows; });
    found_residual = backend.host_staging(residual.span_bytes());
    found_sum = backend.host_staging(sum.span_bytes());
    found_normed = backend.host_staging(normed.span_bytes());
  }

  static gpu::live_count live(const gpu::tensor_view& count) { return {count.as<const int32_t>()}; }
};

/// One captured graph and the reference for it.
class collective_graph {
 public:
  collective_graph(gpu::operations& backend, std::shared_ptr<operand_set> operands,
                   std::vector<collective> ops, const gpu::lane_view& lane,
                   std::vector<gpu::arena_lease> leases)
      : backend_(backend), set_(std::move(operands)), ops_(std::move(ops)), lane_(lane) {
    live_counts all{};
    all.fill(static_cast<int32_t>(capacity()));
    write_counts(all);
    issue();
    backend_.synchronize();
    for (auto& lease : set_->memory.leases()) leases.push_back(std::move(lease));
    backend_.begin_capture(std::move(leases));
    issue();
    graph_.emplace(backend_.end_capture("collectives"));
  }

  int64_t capacity() const { return set_->extents.capacity; }

  void replay(const live_counts& counts) {
    write_counts(counts);
    graph_->replay();
  }

  /// Holds what the last replay left against the reference.
  void check(const live_counts& counts, collective_outcome& outcome) {
    const auto [rows, width] = set_->extents;
    const int64_t row_bytes = width * gpu::size_of(set_->type);
    const int64_t normed_bytes = normed_rows(counts) * row_bytes;
    backend_.download(set_->found_residual.get(), set_->residual, set_->residual.span_bytes());
    backend_.download(set_->found_sum.get(), set_->sum, set_->sum.span_bytes());
    backend_.download(set_->found_normed.get(), set_->normed, normed_bytes);
    backend_.synchronize();
    outcome.collectives += std::ssize(ops_);
    outcome.digest = XXH3_64bits_withSeed(set_->found_normed.get(),
                                          static_cast<size_t>(normed_bytes), outcome.digest);
    known_.clear();
    for (int64_t row = 0; row < rows; ++row) {
      const auto& expected = expectation(row, counts);
      const bool right = equal(set_->found_residual, row * row_bytes, expected.first) &&
                         equal(set_->found_sum, row * std::ssize(expected.second), expected.second);
      if (right) continue;
      if (outcome.wrong_rows++ == 0)
        outcome.first_wrong = fmt::format("row {} of {} x {}, {} live, after {} collectives", row,
                                          rows, width, counts.front(), outcome.collectives);
    }
  }

 private:
  using expected_bytes =
      std::pair<std::vector<std::byte>, std::vector<std::byte>>;  // residual, gathered sum

  void issue() {
    const auto live = &operand_set::live;
    backend_.gather_rows(set_->residual, set_->initial, set_->identity, live(set_->all_rows));
    backend_.gather_rows(set_->sum, set_->zeros, set_->identity, live(set_->all_rows));
    for (const auto& op : ops_) {
      const auto& part = set_->parts[static_cast<size_t>(op.part)];
      const auto rows = live(set_->counts[static_cast<size_t>(op.count)]);
      if (op.gather) {
        backend_.all_gather_columns(set_->gathered, part, lane_, rows);
        backend_.add(set_->sum, set_->gathered, rows);
      } else {
        backend_.all_reduce_add_norm(set_->normed, set_->residual, part, set_->weight, 1e-6F,
                                     {set_->pool, set_->row_map}, op.level, lane_, rows);
      }
    }
  }

  void write_counts(const live_counts& counts) {
    counts_ = counts;
    for (size_t i = 0; i < counts.size(); ++i)
      backend_.upload(set_->counts[i], &counts_[i], sizeof counts_[i]);
  }

  /// The rows that some all-reduce normed.
  int64_t normed_rows(const live_counts& counts) const {
    int64_t rows = 0;
    for (const auto& op : ops_)
      if (!op.gather) rows = std::max<int64_t>(rows, counts[static_cast<size_t>(op.count)]);
    return rows;
  }

  static bool equal(const std::shared_ptr<std::byte>& found, int64_t offset,
                    const std::vector<std::byte>& expected) {
    return std::memcmp(found.get() + offset, expected.data(), expected.size()) == 0;
  }

  /// Rows at one place of the period, under the same live counts, are alike.
  const expected_bytes& expectation(int64_t row, const live_counts& counts) {
    int64_t kind = row % row_period;
    for (const int32_t count : counts) kind = 2 * kind + (row < count ? 1 : 0);
    const auto found = known_.find(kind);
    if (found != known_.end()) return found->second;
    const auto values = reference(ops_, set_->type, set_->ranks).rows_like(row, counts);
    expected_bytes bytes{bytes_of(values.residual, set_->extents.width, set_->type), {}};
    for (const auto& part : values.gathered) {
      const auto own = bytes_of(part, set_->extents.width, gpu::dtype::f32);
      bytes.second.insert(bytes.second.end(), own.begin(), own.end());
    }
    return known_.emplace(kind, std::move(bytes)).first->second;
  }

  gpu::operations& backend_;
  std::shared_ptr<operand_set> set_;
  std::vector<collective> ops_;
  gpu::lane_view lane_;
  live_counts counts_{};
  std::optional<gpu::captured_graph> graph_;
  std::map<int64_t, expected_bytes> known_;
};

}  // namespace

gpu::backend_options backend_of(const collective_task& task, int32_t rank) {
  gpu::backend_options options;
  options.device = task.device;
  if (task.device == gpu::device_kind::cpu) return options;
  const auto found = static_cast<int32_t>(gpu::cuda_devices().size());
  options.cuda_device = rank % found;
  options.ranks_on_device = (task.ranks + found - 1) / found;
  return options;
}

transport::group_placement placement_of(const collective_task& task) {
  transport::group_placement where{gpu::shared_memory_on(task.device), {}};
  for (int32_t rank = 0; rank < task.ranks; ++rank)
    where.devices.push_back(backend_of(task, rank).cuda_device);
  return where;
}

std::vector<transport::lane_request> collective_lanes(const collective_task& task) {
  const int64_t bytes = largest_message(task.device) * gpu::size_of(gpu::dtype::f32);
  return {{"text", (bytes + 63) / 64 * 64}};
}

collective_outcome run_random_collectives(const collective_task& task, int32_t rank,
                                          const std::vector<int>& file_descriptors) {
  gpu::use_device(backend_of(task, rank));
  transport::symmetric_arena symmetric(rank, file_descriptors, collective_lanes(task), lane_timeout,
                                       gpu::shared_memory_on(task.device));
  const gpu::lane_view lane = symmetric.take_lane("text");
  const auto backend = gpu::make_operations(backend_of(task, rank));
  std::mt19937 random(task.seed);  // the same on all ranks
  std::vector<std::unique_ptr<collective_graph>> graphs;
  for (const auto& extents : shapes_of(task.device))
    for (const auto type : {gpu::dtype::f32, gpu::dtype::bf16}) {
      const auto operands = std::make_shared<operand_set>(*backend, extents, type, lane);
      for (int32_t i = 0; i < 2; ++i)
        graphs.push_back(std::make_unique<collective_graph>(
            *backend, operands, random_collectives(random), lane, symmetric.leases()));
    }
  collective_outcome outcome;
  while (outcome.collectives < task.collectives) {
    auto& graph = *graphs[random() % graphs.size()];
    const auto counts = random_counts(random, graph.capacity());
    graph.replay(counts);
    graph.check(counts, outcome);
    config::ensure(symmetric.take_status(lane) == gpu::lane_status::ok, "rank {} lost its group",
                   rank);
  }
  return outcome;
}

}  // namespace troupe::testing
