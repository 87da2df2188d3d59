// What the encoder promises beside numbers: a picture's rows depend on nothing but the picture.
#include "model/vision/vision_runner.hpp"
#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"
#include "model/work_model.hpp"
#include "support/forwarding_operations.hpp"
#include "support/reference_prompt.hpp"
#include "support/runner_group.hpp"

#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <cmath>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

struct fixture {
  explicit fixture(const std::string& checkpoint = "tiny", double max_slice_flops = 1)
      : group({.checkpoint = checkpoint, .max_slice_flops = max_slice_flops}),
        set("ref-" + checkpoint) {
    merge_size = group.checkpoint().preprocessor.merge_size;
  }

  std::vector<model::patch_rows> pictures(const std::string& name) const {
    for (const auto& example : set.cases)
      if (example.name == name) return patches_of(example, group.checkpoint().preprocessor);
    return {};
  }
  /// Rows of all levels, level by level.
  std::vector<float> rows(const std::vector<int32_t>& places) {
    const gpu::tensor_view pool = group.pool().view();
    std::vector<float> values;
    for (int64_t level = 0; level < pool.shape[0]; ++level)
      for (const int32_t row : places) {
        const float* first = pool.at(level).at(row).as<float>();
        values.insert(values.end(), first, first + pool.width());
      }
    return values;
  }
  std::vector<float> encode(const std::vector<model::patch_rows>& items, int32_t first_row) {
    const auto placed = place(items, merge_size, first_row);
    group.encode(placed.items);
    return rows(placed.rows);
  }

  runner_group group;
  reference_set set;
  int32_t merge_size;
};

/// Fails when it is told to.
class failing_operations : public forwarding_operations {
 public:
  failing_operations(std::unique_ptr<gpu::operations> inner, const bool& fails)
      : forwarding_operations(std::move(inner)), fails_(&fails) {}
  void layer_norm(gpu::tensor_view output, gpu::tensor_view input, gpu::tensor_view weight,
                  gpu::tensor_view bias, float epsilon, gpu::live_count rows) override {
    if (*fails_) throw gpu::error("layer_norm fails");
    forwarding_operations::layer_norm(output, input, weight, bias, epsilon, rows);
  }

 private:
  const bool* fails_;
};

/// Computes everything and writes no row of level 2.
class lossy_operations : public forwarding_operations {
 public:
  using forwarding_operations::forwarding_operations;
  void scatter_rows(gpu::tensor_view pool_level, gpu::tensor_view input,
                    gpu::tensor_view destination, gpu::live_count rows) override {
    if (++calls_ % 4 != 2)
      forwarding_operations::scatter_rows(pool_level, input, destination, rows);
  }

 private:
  int calls_ = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(small_large_small_gives_the_same_rows) {
  fixture f;
  const auto small = f.pictures("image3-64x64-png");
  const auto large = f.pictures("image4-480x640-jpg");
  const auto small_rows = f.encode(small, 0);
  const auto large_rows = f.encode(large, 100);
  for (int i = 0; i < 3; ++i) {
    BOOST_TEST((f.encode(small, 17) == small_rows));
    BOOST_TEST((f.encode(large, 300) == large_rows));
  }
}

BOOST_DATA_TEST_CASE(rows_do_not_depend_on_how_runs_are_cut,
                     boost::unit_test::data::make({"tiny", "dense72", "moe"}), checkpoint) {
  fixture whole(checkpoint, 0);
  fixture finest(checkpoint, 1);
  // Two blocks of the smallest budget: slices of several parts there, of fewer in larger ones.
  const auto part = model::frame_flops(whole.group.checkpoint().model.vision, 64);
  fixture between(checkpoint, 2 * (part.attention + part.mlp));
  for (const auto& example : whole.set.cases) {
    if (example.grid_thw.empty()) continue;
    BOOST_TEST_CONTEXT(example.name) {
      const auto expected = whole.encode(whole.pictures(example.name), 3);
      BOOST_TEST((finest.encode(finest.pictures(example.name), 3) == expected));
      BOOST_TEST((between.encode(between.pictures(example.name), 3) == expected));
    }
  }
}

BOOST_AUTO_TEST_CASE(a_run_is_issued_slice_by_slice_and_is_there_after_the_last) {
  fixture f;
  const auto picture = f.pictures("image3-64x64-png");
  const auto expected = f.encode(picture, 0);
  const auto parts = 2 + 2 * f.group.checkpoint().model.vision.depth +
                     f.group.checkpoint().model.vision.num_deepstack_levels();
  const auto placed = place(picture, f.merge_size, 200);
  f.group.on_encoder([&](model::vision_runner& encoder) {
    encoder.begin(placed.items);
    int32_t slices = 0;
    for (; encoder.slices_left() > 0; ++slices) BOOST_TEST(encoder.issue_slice()->passed() == true);
    BOOST_TEST(slices == parts);
  });
  BOOST_TEST((f.rows(placed.rows) == expected));
}

BOOST_AUTO_TEST_CASE(a_run_that_was_abandoned_leaves_no_trace_in_the_next) {
  fixture f;
  const auto small = f.pictures("image3-64x64-png");
  const auto expected = f.encode(small, 0);
  const auto large_pictures = f.pictures("image4-480x640-jpg");
  const auto large = place(large_pictures, f.merge_size, 100);
  f.group.on_encoder([&](model::vision_runner& encoder) {
    encoder.begin(large.items);
    for (int32_t slice = 0; slice < 4; ++slice) encoder.issue_slice();
    encoder.abandon();
    BOOST_TEST(encoder.slices_left() == 0);
  });
  BOOST_TEST((f.encode(small, 0) == expected));
}

BOOST_AUTO_TEST_CASE(a_slice_that_fails_ends_its_run_and_no_other) {
  const fixture f;
  const auto& model = f.group.checkpoint().model;
  bool fails = false;
  model::vision_runner runner(
      std::make_unique<failing_operations>(gpu::make_cpu_operations({}), fails), model,
      model::random_vision_weights(model, 1), model::visual_pool(model, gpu::dtype::f32, 16),
      {gpu::dtype::f32, true, 64, 4, 1});  // eager: a graph would not ask this backend
  runner.capture({});
  const std::vector<std::byte> pixels(static_cast<size_t>(4 * model.vision.patch_width()) *
                                      sizeof(float));
  const std::vector<model::encode_item> items{{{1, 2, 2}, pixels, {0}}};
  runner.begin(items);
  runner.issue_slice();
  fails = true;
  BOOST_CHECK_THROW(runner.issue_slice(), gpu::error);
  BOOST_TEST(runner.slices_left() == 0);
  fails = false;
  BOOST_CHECK_NO_THROW(runner.encode(items));
}

BOOST_AUTO_TEST_CASE(pictures_and_clips_share_a_run_without_a_trace) {
  fixture f;
  std::vector<model::patch_rows> together;
  std::vector<std::vector<float>> alone;
  int32_t row = 0;
  for (const char* name : {"image3-64x64-png", "video", "image7-33x500-png", "pair"})
    for (const auto& picture : f.pictures(name)) {
      alone.push_back(f.encode({picture}, row));
      row += picture.grid.visual_tokens(f.merge_size);
      together.push_back(picture);
    }
  f.group.pool().clear();
  const auto placed = place(together, f.merge_size, 200);
  f.group.encode(placed.items);
  for (size_t i = 0; i < together.size(); ++i)
    BOOST_TEST((f.rows(placed.items[i].destination_rows) == alone[i]));
}

BOOST_AUTO_TEST_CASE(pixels_of_nan_leave_no_trace_in_later_runs) {
  fixture f;
  const auto small = f.pictures("image3-64x64-png");
  const auto expected = f.encode(small, 0);
  auto poisoned = f.pictures("image4-480x640-jpg");
  for (float& value : poisoned[0].values<float>()) value = std::numeric_limits<float>::quiet_NaN();
  BOOST_TEST(std::isnan(f.encode(poisoned, 100)[0]));
  BOOST_TEST((f.encode(small, 0) == expected));
}

BOOST_AUTO_TEST_CASE(rows_beside_the_destination_stay_as_they_are) {
  fixture f;
  const auto picture = f.pictures("image3-64x64-png");
  const gpu::tensor_view pool = f.group.pool().view();
  const auto before = f.rows({0, 1023});
  auto placed = place(picture, f.merge_size, 1);
  placed.items[0].destination_rows = {9, 2, 700, 4, 5, 6, 7, 8, 1022};
  f.group.encode(placed.items);
  BOOST_TEST((f.rows({0, 1023}) == before));
  const auto scattered = f.rows(placed.items[0].destination_rows);
  BOOST_TEST((f.encode(picture, 1) == scattered));
  BOOST_TEST(pool.shape[1] == 1024);
}

BOOST_AUTO_TEST_CASE(items_that_do_not_fit_are_refused_before_anything_is_written) {
  fixture f;
  const auto picture = f.pictures("image3-64x64-png");
  const auto before = f.encode(picture, 0);
  const auto message_of = [&](const std::vector<model::encode_item>& items) {
    try {
      f.group.encode(items);
    } catch (const std::invalid_argument& refused) {
      return std::string(refused.what());
    }
    return std::string("not refused");
  };
  const auto item = place(picture, f.merge_size, 0).items[0];

  auto wrong = item;
  wrong.destination_rows.pop_back();
  BOOST_TEST(message_of({wrong}) == "encode: 8 destination rows, expected 9");
  wrong = item;
  wrong.destination_rows[3] = 1024;
  BOOST_TEST(message_of({wrong}) == "encode: destination row 1024 in a pool of 1024 rows");
  wrong.grid.width = 5;
  BOOST_TEST(message_of({wrong}) == "encode: grid 1x6x5, expected sides over 0 and multiples of 2");
  wrong.grid.width = 8;
  BOOST_TEST(message_of({wrong}) ==
             "encode: 221184 bytes of pixels, expected 294912 for 48 patches");
  BOOST_TEST(message_of(std::vector<model::encode_item>(17, item)) ==
             "encode: 612 patches in 17 frames, a run holds 1024 in 16");
  BOOST_TEST((f.rows(item.destination_rows) == before));
}

BOOST_AUTO_TEST_CASE(a_graph_that_misses_a_level_of_the_pool_is_not_built) {
  const fixture f;
  const auto& model = f.group.checkpoint().model;
  model::vision_runner runner(std::make_unique<lossy_operations>(gpu::make_cpu_operations({})),
                              model, model::random_vision_weights(model, 1),
                              model::visual_pool(model, gpu::dtype::f32, 16),
                              {gpu::dtype::f32, false, 64, 4});
  BOOST_CHECK_EXCEPTION(runner.capture([](int32_t, int32_t) {}), gpu::error, [](const auto& e) {
    return std::string(e.what()) == "vision graphs do not write level 2 of the visual pool";
  });
}

BOOST_AUTO_TEST_CASE(nothing_is_captured_or_allocated_per_picture) {
  fixture f;
  const auto counts = gpu::read_counters();
  for (const auto& example : f.set.cases)
    if (!example.grid_thw.empty()) f.encode(f.pictures(example.name), 0);
  const auto now = gpu::read_counters();
  BOOST_TEST(now.graph_captures == counts.graph_captures);
  BOOST_TEST(now.arena_allocations == counts.arena_allocations);
}
