#include "tests/gpu/cpu_fixture.hpp"

#include "gpu/backend.hpp"
#include "gpu/counters.hpp"
#include "gpu/error.hpp"
#include "gpu/graph_states.hpp"

using namespace troupe::gpu;
using namespace troupe::gpu::cpu::test;

namespace {

/// A linear and a norm: one operation with packed weights, one without.
struct two_operations {
  arena tensors{"activations", memory_kind::host};
  tensor_view input, product, normed, norm_weight;
  live_count rows;
  linear_weight weight;

  explicit two_operations(operations& backend) {
    const auto i = tensors.reserve("input", dtype::f32, {4, 16});
    const auto p = tensors.reserve("product", dtype::f32, {4, 16});
    const auto n = tensors.reserve("normed", dtype::f32, {4, 16});
    const auto w = tensors.reserve("norm_weight", dtype::f32, {16});
    const auto r = tensors.reserve("rows", dtype::i32, {1});
    tensors.seal();
    input = tensors.view(i);
    product = tensors.view(p);
    normed = tensors.view(n);
    norm_weight = tensors.view(w);
    rows = {tensors.view(r).as<int32_t>()};
    for (int64_t k = 0; k < 16; ++k) set_value(norm_weight, 0, k, 1);
    memory source;
    weight = backend.prepare_linear("w", source.add_random(dtype::f32, {16, 16}), {});
  }

  void set_rows(int32_t count) { *const_cast<int32_t*>(rows.value) = count; }
  void issue(operations& backend) const {
    backend.linear(product, input, weight, rows);
    backend.rms_norm(normed, product, norm_weight, 1e-6F, rows);
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_graph_test)

BOOST_AUTO_TEST_CASE(what_changes_between_replays_is_read_from_memory) {
  const auto backend = make_cpu_operations({});
  two_operations test(*backend);
  auto warm = cold_graph("pair", [&] { test.issue(*backend); }).warm(*backend);
  auto graph = warm.capture(*backend, {test.tensors.lease()});
  const auto captures = read_counters().graph_captures;
  for (const int32_t live : {4, 1, 3, 0}) {
    test.set_rows(live);
    for (int64_t row = 0; row < 4; ++row) {
      set_value(test.input, row, 0, live + 1);
      set_value(test.normed, row, 0, -77);
    }
    graph.replay();
    for (int64_t row = 0; row < 4; ++row)
      BOOST_TEST((value_at(test.normed, row, 0) != -77) == (row < live));
  }
  BOOST_TEST(read_counters().graph_captures == captures);
}

BOOST_AUTO_TEST_CASE(the_manifest_names_every_operand) {
  const auto backend = make_cpu_operations({});
  two_operations test(*backend);
  test.issue(*backend);
  backend->begin_capture({test.tensors.lease()});
  test.issue(*backend);
  const auto graph = backend->end_capture("pair");
  const manifest& baked = graph.baked();
  BOOST_REQUIRE(baked.operations().size() == 2u);
  BOOST_TEST(baked.operations()[0].name == "linear");
  BOOST_TEST(baked.operations()[0].parameters == "[4, 16] -> [4, 16]");
  BOOST_TEST(baked.operations()[1].parameters == "[4, 16] epsilon=1e-06");
  BOOST_TEST(baked.reads(test.input));
  BOOST_TEST(baked.reads(test.product));
  BOOST_TEST(!baked.reads(test.normed));
  BOOST_TEST(baked.arenas().size() == 2u);  // the test's and the packed weights'
  BOOST_TEST(graph.intact());
}

BOOST_AUTO_TEST_CASE(equal_graphs_of_two_backends_have_equal_shapes) {
  const auto capture = [](operations& backend, const two_operations& test) {
    test.issue(backend);
    backend.begin_capture({test.tensors.lease()});
    test.issue(backend);
    return backend.end_capture("pair");
  };
  const auto first = make_cpu_operations({}), second = make_cpu_operations({});
  two_operations a(*first), b(*second);
  const auto x = capture(*first, a), y = capture(*second, b);
  BOOST_TEST((x.baked().shape_digest() == y.baked().shape_digest()));
  BOOST_TEST((x.baked().digest() != y.baked().digest()));
}

BOOST_AUTO_TEST_CASE(memory_that_nobody_owns_is_not_baked) {
  const auto backend = make_cpu_operations({});
  two_operations test(*backend);
  std::vector<float> stray(64);
  const auto input = make_view(stray.data(), dtype::f32, 4, 16);
  backend->begin_capture({test.tensors.lease()});
  BOOST_CHECK_THROW(backend->rms_norm(test.normed, input, test.norm_weight, 1e-6F, test.rows),
                    error);
}

BOOST_AUTO_TEST_CASE(a_replay_over_retired_memory_is_refused) {
  const auto backend = make_cpu_operations({});
  two_operations test(*backend);
  test.issue(*backend);
  backend->begin_capture({test.tensors.lease()});
  test.issue(*backend);
  auto graph = backend->end_capture("pair");
  test.tensors.retire();
  BOOST_CHECK_THROW(graph.replay(), stale_graph);
}

BOOST_AUTO_TEST_CASE(a_graph_outlives_its_backend) {
  auto backend = make_cpu_operations({});
  two_operations test(*backend);
  test.set_rows(4);
  for (int64_t k = 0; k < 16; ++k) set_value(test.input, 2, k, 1);
  test.issue(*backend);
  const double expected = value_at(test.normed, 2, 5);
  backend->begin_capture({test.tensors.lease()});
  test.issue(*backend);
  auto graph = backend->end_capture("pair");
  backend.reset();
  set_value(test.normed, 2, 5, 0);
  graph.replay();
  BOOST_TEST(value_at(test.normed, 2, 5) == expected);
}

BOOST_AUTO_TEST_CASE(a_team_needs_a_thread) {
  BOOST_CHECK_EXCEPTION(make_cpu_operations({.num_threads = 0}), error, [](const error& failure) {
    return std::string(failure.what()) == "a team of 0 threads, expected at least 1";
  });
}

BOOST_AUTO_TEST_SUITE_END()
