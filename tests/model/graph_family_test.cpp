#include "model/graph_family.hpp"
#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"
#include "model/arena_builder.hpp"

#include <boost/test/unit_test.hpp>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

using namespace troupe;

namespace {

/// A network of one operation: x += y, on the first `bucket` of four rows.
struct fixture {
  fixture() : arena(lay_out()) {
    *rows.as<int32_t>() = 4;
    for (int i = 0; i < 8; ++i) y.as<float>()[i] = 1;
    recipe.load_warm_up = [this](int32_t bucket) { loaded.push_back(bucket); };
    recipe.issue = [this](int32_t bucket, int32_t /*slice*/) {
      backend->add(x.slice_rows(0, bucket), y.slice_rows(0, bucket), {rows.as<int32_t>()});
    };
    recipe.check = [this](const model::bucket_manifests& baked) {
      for (const auto* slice : baked) checked += slice->writes(x);
    };
  }

  gpu::arena lay_out() {
    model::arena_builder builder("test", gpu::memory_kind::host);
    builder.reserve(x, "x", gpu::dtype::f32, {4, 2});
    builder.reserve(y, "y", gpu::dtype::f32, {4, 2});
    builder.reserve(rows, "rows", gpu::dtype::i32, {1});
    return builder.seal();
  }
  model::graph_family make(bool eager) {
    return {"test", *backend, {1, 4}, {arena.lease()}, eager, recipe};
  }
  /// First value of each row of x.
  std::vector<float> column() const {
    std::vector<float> values;
    for (int64_t row = 0; row < 4; ++row) values.push_back(x.as<float>()[2 * row]);
    return values;
  }

  std::unique_ptr<gpu::operations> backend = gpu::make_cpu_operations({});
  gpu::tensor_view x, y, rows;
  gpu::arena arena;
  model::graph_recipe recipe;
  std::vector<int32_t> loaded;
  int checked = 0;
};

}  // namespace

BOOST_AUTO_TEST_CASE(every_bucket_is_warmed_once_then_captured_without_running) {
  fixture f;
  int32_t last_done = 0;
  f.recipe.progress = [&](int32_t done, int32_t total) {
    BOOST_TEST(done == last_done + 1);
    BOOST_TEST(total == 2);
    last_done = done;
  };
  const auto before = gpu::read_counters();
  auto family = f.make(false);
  BOOST_TEST(gpu::read_counters().graph_captures == before.graph_captures + 2);
  BOOST_TEST(f.loaded == (std::vector<int32_t>{4, 1}), boost::test_tools::per_element());
  BOOST_TEST(f.checked == 2);
  BOOST_TEST(last_done == 2);
  BOOST_TEST(f.column() == (std::vector<float>{2, 1, 1, 1}), boost::test_tools::per_element());

  family.run(4);
  BOOST_TEST(f.column() == (std::vector<float>{3, 2, 2, 2}), boost::test_tools::per_element());
  BOOST_TEST(gpu::read_counters().graph_replays == before.graph_replays + 1);
}

BOOST_AUTO_TEST_CASE(an_eager_family_runs_the_same_and_captures_nothing) {
  fixture f;
  const auto before = gpu::read_counters();
  auto family = f.make(true);
  family.run(4);
  BOOST_TEST(f.column() == (std::vector<float>{3, 2, 2, 2}), boost::test_tools::per_element());
  BOOST_TEST(gpu::read_counters().graph_captures == before.graph_captures);
  BOOST_TEST((family.shape_digest() == gpu::digest128{}));
}

BOOST_AUTO_TEST_CASE(slices_of_a_bucket_are_graphs_that_make_up_a_run) {
  for (const bool eager : {false, true}) {
    BOOST_TEST_CONTEXT((eager ? "eager" : "captured")) {
      fixture f;
      // A row of the bucket each.
      f.recipe.num_slices = [](int32_t bucket) { return bucket; };
      f.recipe.issue = [&f](int32_t, int32_t slice) {
        f.backend->add(f.x.slice_rows(slice, 1), f.y.slice_rows(slice, 1), {f.rows.as<int32_t>()});
      };
      const auto before = gpu::read_counters();
      auto family = f.make(eager);
      BOOST_TEST(gpu::read_counters().graph_captures == before.graph_captures + (eager ? 0 : 5));
      BOOST_TEST(f.checked == (eager ? 0 : 5));
      BOOST_TEST(f.loaded == (std::vector<int32_t>{4, 1}), boost::test_tools::per_element());
      BOOST_TEST(f.column() == (std::vector<float>{2, 1, 1, 1}), boost::test_tools::per_element());
      BOOST_TEST(family.num_slices(4) == 4);
      BOOST_TEST(family.num_slices(1) == 1);

      family.run_slice(4, 2);
      BOOST_TEST(f.column() == (std::vector<float>{2, 1, 2, 1}), boost::test_tools::per_element());
      family.run(4);
      BOOST_TEST(f.column() == (std::vector<float>{3, 2, 3, 2}), boost::test_tools::per_element());
      family.run_eagerly(4);
      BOOST_TEST(f.column() == (std::vector<float>{4, 3, 4, 3}), boost::test_tools::per_element());
      BOOST_TEST(family.intact(4));
      f.arena.retire();
      if (!eager) BOOST_CHECK_THROW(family.run_slice(4, 3), gpu::stale_graph);
    }
  }
}

BOOST_AUTO_TEST_CASE(how_a_bucket_is_cut_shows_in_the_digest) {
  fixture whole;
  fixture cut;
  cut.recipe.num_slices = [](int32_t) { return 2; };
  BOOST_TEST((whole.make(false).shape_digest() != cut.make(false).shape_digest()));
}

BOOST_AUTO_TEST_CASE(the_bucket_of_a_count_is_the_smallest_that_holds_it) {
  fixture f;
  const auto family = f.make(true);
  BOOST_TEST(family.bucket_for(0) == 1);
  BOOST_TEST(family.bucket_for(1) == 1);
  BOOST_TEST(family.bucket_for(2) == 4);
  BOOST_TEST(family.bucket_for(4) == 4);
}

BOOST_AUTO_TEST_CASE(retired_memory_stops_graphs_and_eager_runs) {
  for (const bool eager : {false, true}) {
    fixture f;
    auto family = f.make(eager);
    BOOST_CHECK_NO_THROW(family.require_current());
    f.arena.retire();
    BOOST_CHECK_EXCEPTION(family.require_current(), gpu::stale_graph, [](const auto& stale) {
      return std::string(stale.what()).find("arena test, which was retired") != std::string::npos;
    });
    if (!eager) BOOST_CHECK_THROW(family.run(4), gpu::stale_graph);
  }
}

BOOST_AUTO_TEST_CASE(a_failed_check_leaves_no_family) {
  fixture f;
  f.recipe.check = [](const model::bucket_manifests&) { throw gpu::error("must not be served"); };
  BOOST_CHECK_THROW(f.make(false), gpu::error);
  f.recipe.check_run = [] { throw gpu::error("the first run failed"); };
  BOOST_CHECK_THROW(f.make(true), gpu::error);
}

BOOST_AUTO_TEST_CASE(equal_networks_have_equal_digests_at_other_addresses) {
  fixture first;
  fixture second;
  fixture other;
  other.recipe.issue = [&](int32_t bucket, int32_t /*slice*/) {
    other.backend->add(other.y.slice_rows(0, bucket), other.x.slice_rows(0, bucket),
                       {other.rows.as<int32_t>()});
  };
  other.recipe.check = [](const model::bucket_manifests&) {};
  const auto digest = first.make(false).shape_digest();
  BOOST_TEST((digest == second.make(false).shape_digest()));
  BOOST_TEST((digest != other.make(false).shape_digest()));
}
