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
    recipe.issue = [this](int32_t bucket) {
      backend->add(x.slice_rows(0, bucket), y.slice_rows(0, bucket), {rows.as<int32_t>()});
    };
    recipe.check = [this](const gpu::manifest& manifest) { checked += manifest.writes(x); };
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
  f.recipe.check = [](const gpu::manifest&) { throw gpu::error("must not be served"); };
  BOOST_CHECK_THROW(f.make(false), gpu::error);
  f.recipe.check_run = [] { throw gpu::error("the first run failed"); };
  BOOST_CHECK_THROW(f.make(true), gpu::error);
}

BOOST_AUTO_TEST_CASE(equal_networks_have_equal_digests_at_other_addresses) {
  fixture first;
  fixture second;
  fixture other;
  other.recipe.issue = [&](int32_t bucket) {
    other.backend->add(other.y.slice_rows(0, bucket), other.x.slice_rows(0, bucket),
                       {other.rows.as<int32_t>()});
  };
  other.recipe.check = [](const gpu::manifest&) {};
  const auto digest = first.make(false).shape_digest();
  BOOST_TEST((digest == second.make(false).shape_digest()));
  BOOST_TEST((digest != other.make(false).shape_digest()));
}
