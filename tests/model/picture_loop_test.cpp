// Pictures of all sizes in random order: a picture's rows are the same bits whatever was encoded
// before. What this excludes: working memory that one size leaves behind for another, or that grew
// and moved.
#include "gpu/counters.hpp"
#include "support/made_pictures.hpp"
#include "support/runner_fixture.hpp"
#include "support/tested_settings.hpp"

#include <boost/test/unit_test.hpp>

#include <random>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

/// Sides in patches; together they reach every patch budget of a runner group.
const std::vector<model::patch_grid> grids{{1, 2, 2},   {1, 4, 6},   {1, 8, 8},   {1, 2, 34},
                                           {1, 6, 20},  {1, 16, 16}, {1, 2, 130}, {2, 10, 12},
                                           {1, 22, 22}, {1, 2, 512}, {1, 32, 32}, {4, 16, 16}};

class picture_loop {
 public:
  explicit picture_loop(const group_options& options)
      : group_(options), merge_size_(group_.checkpoint().preprocessor.merge_size) {
    for (size_t i = 0; i < grids.size(); ++i) {
      pictures_.push_back({make_picture(group_.checkpoint().model.vision, grids[i],
                                        options.activation, static_cast<uint32_t>(i))});
      first_.push_back(encode(i, 0));
    }
  }

  /// Every part of the tower is a slice: embedding, both halves of each block, mergers.
  int32_t graphs_per_run() const {
    const auto& vision = group_.checkpoint().model.vision;
    return 1 + 2 * vision.depth + 1 + vision.num_deepstack_levels();
  }
  /// Pictures whose rows were not those of their first encoding.
  int32_t mismatches(int32_t rounds, uint32_t seed) {
    std::mt19937 random(seed);
    int32_t found = 0;
    for (int32_t round = 0; round < rounds; ++round) {
      const size_t picture = random() % pictures_.size();
      const auto spare = static_cast<uint32_t>(
          group_.pool().rows() - pictures_[picture][0].grid.visual_tokens(merge_size_));
      found += encode(picture, static_cast<int32_t>(random() % (spare + 1))) != first_[picture];
    }
    return found;
  }

 private:
  /// The picture's rows, level by level.
  std::vector<std::byte> encode(size_t picture, int32_t first_row) {
    const auto placed = place(pictures_[picture], merge_size_, first_row);
    group_.encode(placed.items);
    const gpu::tensor_view pool = group_.pool().view();
    std::vector<std::byte> bytes;
    for (int64_t level = 0; level < pool.shape[0]; ++level) {
      const auto rows =
          group_.read_bytes(pool.at(level).slice_rows(first_row, std::ssize(placed.rows)));
      bytes.insert(bytes.end(), rows.begin(), rows.end());
    }
    return bytes;
  }

  runner_group group_;
  int32_t merge_size_;
  std::vector<std::vector<model::patch_rows>> pictures_;  // runs of one picture
  std::vector<std::vector<std::byte>> first_;             // rows of each picture's first encoding
};

}  // namespace

BOOST_AUTO_TEST_SUITE(pictures_in_a_loop)

BOOST_AUTO_TEST_CASE(small_large_small_never_changes_a_row) {
  for (const auto activation : {gpu::dtype::f32, gpu::dtype::bf16}) {
    picture_loop loop({.checkpoint = "tiny", .activation = activation});
    const auto counts = gpu::read_counters();
    const int32_t rounds = rounds_of(150, 5'000);
    BOOST_TEST(loop.mismatches(rounds, 1) == 0);
    const auto now = gpu::read_counters();
    BOOST_TEST(now.graph_replays == counts.graph_replays + rounds * loop.graphs_per_run());
    BOOST_TEST(now.graph_captures == counts.graph_captures);
    BOOST_TEST(now.arena_allocations == counts.arena_allocations);
  }
}

BOOST_AUTO_TEST_SUITE_END()
