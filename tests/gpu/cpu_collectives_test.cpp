#include "tests/gpu/cpu_fixture.hpp"

#include "gpu/cpu/lane.hpp"

#include <thread>

using namespace troupe::gpu;
using namespace troupe::gpu::cpu;
using namespace troupe::gpu::cpu::test;

namespace {

constexpr int64_t capacity = 9, width = 37;
constexpr int32_t pool_rows = 4;

/// Pieces of one lane in the memory of every rank, as the symmetric arena lays them out.
class lane_memory {
 public:
  explicit lane_memory(int32_t ranks) : status_(static_cast<size_t>(ranks)) {
    for (int32_t rank = 0; rank < ranks; ++rank)
      pieces_.push_back(memory_.add(dtype::u8, {lane_control_bytes + 2 * slot_bytes}));
  }

  lane_view of(int32_t rank) {
    lane_view lane;
    lane.rank = rank;
    lane.size = static_cast<int32_t>(pieces_.size());
    for (size_t i = 0; i < pieces_.size(); ++i) lane.pieces[i] = pieces_[i].data;
    lane.slot_bytes = slot_bytes;
    lane.piece_bytes = lane_control_bytes + 2 * slot_bytes;
    lane.timeout_ns = 600'000'000'000;
    lane.status = &status_[static_cast<size_t>(rank)];
    return lane;
  }
  std::vector<arena_lease> leases() const { return memory_.leases(); }

 private:
  static constexpr int64_t slot_bytes = capacity * width * 4;
  memory memory_;
  std::vector<tensor_view> pieces_;
  std::vector<uint32_t> status_;
};

/// One rank's tensors; everything but `partial` is equal on all ranks.
struct rank_tensors {
  memory tensors;
  tensor_view residual, weight, pool, row_map, normed, partial, gathered;
  live_count rows;

  rank_tensors(dtype type, int32_t rank, int32_t ranks) {
    residual = tensors.add_random(type, {capacity, width});
    weight = tensors.add_random(type, {width});
    pool = tensors.add_random(type, {2, pool_rows, width});
    row_map = tensors.add_ids({-1, 2, -1, 0, 3, -1, -1, 1, -1});
    normed = tensors.add(type, {capacity, width});
    partial = tensors.add(dtype::f32, {capacity, width});
    gathered = tensors.add(dtype::f32, {capacity, ranks * width});
    rows = tensors.add_count(capacity);
    fill_partial(rank);
  }

  static double part(int32_t rank, int64_t row, int64_t column) {
    return std::sin(static_cast<double>((rank + 1) * 1000 + row * width + column));
  }
  void fill_partial(int32_t rank) {
    for (int64_t row = 0; row < capacity; ++row)
      for (int64_t column = 0; column < width; ++column)
        set_value(partial, row, column, part(rank, row, column));
  }
  void issue(operations& backend, const lane_view& lane) {
    backend.all_reduce_add_norm(normed, residual, partial, weight, 1e-6F, {pool, row_map}, 1, lane,
                                rows);
    backend.all_gather_columns(gathered, partial, lane, rows);
  }
};

/// The residual after one step, with the reference's roundings.
double expected_residual(const rank_tensors& before, int32_t ranks, int64_t row, int64_t column) {
  const dtype type = before.residual.type;
  float sum = 0;
  for (int32_t rank = 0; rank < ranks; ++rank)
    sum += static_cast<float>(rank_tensors::part(rank, row, column));
  const double added = rounded(
      type, value_at(before.residual, row, column) + rounded(type, static_cast<double>(sum)));
  const int32_t visual = before.row_map.as<int32_t>()[row];
  return visual < 0 ? added : rounded(type, added + value_at(before.pool.at(1), visual, column));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_collectives_test)

BOOST_AUTO_TEST_CASE(ranks_reduce_in_rank_order_and_gather_side_by_side) {
  for (const auto type : {dtype::f32, dtype::bf16})
    for (const int32_t ranks : {1, 2, 4}) {
      lane_memory lane(ranks);
      const rank_tensors before(type, 0, ranks);
      std::vector<std::unique_ptr<rank_tensors>> group;
      for (int32_t rank = 0; rank < ranks; ++rank)
        group.push_back(std::make_unique<rank_tensors>(type, rank, ranks));
      std::vector<std::thread> threads;
      for (int32_t rank = 0; rank < ranks; ++rank)
        threads.emplace_back([&, rank] {
          const auto backend = make_backend(best_instruction_set(), 1);
          group[static_cast<size_t>(rank)]->issue(*backend, lane.of(rank));
        });
      for (auto& thread : threads) thread.join();

      for (int32_t rank = 0; rank < ranks; ++rank) {
        const auto& own = *group[static_cast<size_t>(rank)];
        for (int64_t row = 0; row < capacity; ++row) {
          BOOST_TEST((row_bytes(own.normed, row) == row_bytes(group[0]->normed, row)));
          for (int64_t column = 0; column < width; ++column)
            BOOST_TEST(value_at(own.residual, row, column) ==
                       expected_residual(before, ranks, row, column));
          for (int64_t column = 0; column < ranks * width; ++column)
            BOOST_TEST(value_at(own.gathered, row, column) ==
                       rounded(dtype::f32, rank_tensors::part(static_cast<int32_t>(column / width),
                                                              row, column % width)));
        }
      }
    }
}

BOOST_AUTO_TEST_CASE(ranks_record_one_graph_and_replay_it_with_other_counts) {
  constexpr int32_t ranks = 2;
  lane_memory lane(ranks);
  std::vector<digest128> digests(ranks);
  std::vector<std::string> failures(ranks);
  std::vector<std::thread> threads;
  for (int32_t rank = 0; rank < ranks; ++rank)
    threads.emplace_back([&, rank] {
      const auto index = static_cast<size_t>(rank);
      const auto backend = make_backend(best_instruction_set(), 1);
      rank_tensors own(dtype::f32, rank, ranks);
      auto leases = own.tensors.leases();
      for (auto& lease : lane.leases()) leases.push_back(lease);
      backend->begin_capture(leases);
      own.issue(*backend, lane.of(rank));
      auto graph = backend->end_capture("collectives");
      digests[index] = graph.baked().shape_digest();
      for (const int32_t live : {9, 1, 0, 5, 9, 2}) {
        memory::set(own.rows, live);
        set_value(own.gathered, capacity - 1, 0, -5);
        graph.replay();
        for (int64_t row = 0; row < live; ++row)
          if (value_at(own.gathered, row, width) !=
              rounded(dtype::f32, rank_tensors::part(1, row, 0)))
            failures[index] = "a peer's part is wrong";
        if ((value_at(own.gathered, capacity - 1, 0) == -5) != (live < capacity))
          failures[index] = "a row past the live count was written";
      }
    });
  for (auto& thread : threads) thread.join();
  for (const auto& failure : failures) BOOST_TEST(failure == "");
  BOOST_TEST((digests[0] == digests[1]));
}

BOOST_AUTO_TEST_SUITE_END()
