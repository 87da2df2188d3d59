#include "tests/gpu/cpu_fixture.hpp"

#include "gpu/backend.hpp"
#include "gpu/counters.hpp"

using namespace troupe::gpu;
using namespace troupe::gpu::cpu;
using namespace troupe::gpu::cpu::test;

namespace {

struct product {
  memory tensors;
  tensor_view weight, bias, input, output;
  linear_weight prepared;

  product(operations& backend, dtype type, dtype output_type, int64_t rows, int64_t in, int64_t out,
          bool with_bias) {
    weight = tensors.add_random(type, {out, in});
    if (with_bias) bias = tensors.add_random(type, {out}, 10);
    input = tensors.add_random(type, {rows, in});
    output = tensors.add(output_type, {rows, out});
    prepared = backend.prepare_linear("test", weight, bias);
  }

  double expected(int64_t row, int64_t column) const {
    double sum = bias.rank == 0 ? 0 : value_at(bias, 0, column);
    for (int64_t k = 0; k < weight.width(); ++k)
      sum += value_at(input, row, k) * value_at(weight, column, k);
    return sum;
  }
  void check(int64_t rows) const {
    check_rows(
        output, rows, [&](int64_t row, int64_t column) { return expected(row, column); },
        std::sqrt(static_cast<double>(weight.width())));
  }
};

struct dtypes {
  dtype operand;
  dtype output;
};
constexpr dtypes all_dtypes[] = {
    {dtype::f32, dtype::f32}, {dtype::bf16, dtype::bf16}, {dtype::bf16, dtype::f32}};

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_linear_test)

BOOST_AUTO_TEST_CASE(products_of_all_dtypes_and_odd_sizes) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  for (const auto& types : all_dtypes)
    for (const bool with_bias : {false, true})
      for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
               {1, 1}, {3, 5}, {72, 200}, {128, 130}, {1100, 33}})
        BOOST_TEST_CONTEXT(in << " -> " << out << " bias " << with_bias) {
          product p(*backend, types.operand, types.output, 7, in, out, with_bias);
          const auto rows = p.tensors.add_count(7);
          run(*backend, p.tensors, [&] { backend->linear(p.output, p.input, p.prepared, rows); });
          p.check(7);
        }
}

BOOST_AUTO_TEST_CASE(every_live_count_with_poisoned_padding) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  for (const auto& types : all_dtypes) {
    product p(*backend, types.operand, types.output, 150, 40, 24, true);
    const auto rows = p.tensors.add_count(0);
    for (const int32_t live : {150, 149, 131, 129, 128, 127, 100, 33, 17, 5, 3, 1, 0}) {
      memory::set(rows, live);
      poison(p.input, live);
      run(*backend, p.tensors, [&] { backend->linear(p.output, p.input, p.prepared, rows); });
      p.check(live);
    }
  }
}

BOOST_AUTO_TEST_CASE(capacities_that_are_no_tile_height_are_not_overrun) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  for (const int64_t capacity : {1, 3, 5, 23, 61, 100}) {
    product p(*backend, dtype::f32, dtype::f32, capacity + 1, 16, 8, false);
    const auto rows = p.tensors.add_count(static_cast<int32_t>(capacity));
    set_value(p.output, capacity, 3, 42);
    run(*backend, p.tensors, [&] {
      backend->linear(p.output.slice_rows(0, capacity), p.input.slice_rows(0, capacity), p.prepared,
                      rows);
    });
    p.check(capacity);
    BOOST_TEST(value_at(p.output, capacity, 3) == 42);
  }
}

BOOST_AUTO_TEST_CASE(columns_of_wider_rows) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  product p(*backend, dtype::bf16, dtype::f32, 6, 48, 32, true);
  const auto wide_input = p.tensors.add_random(dtype::bf16, {6, 100});
  const auto wide_output = p.tensors.add_random(dtype::f32, {6, 50});
  p.input = wide_input.slice_columns(50, 48);
  p.output = wide_output.slice_columns(10, 32);
  const double left = value_at(wide_output, 3, 9), right = value_at(wide_output, 3, 42);
  const auto rows = p.tensors.add_count(6);
  run(*backend, p.tensors, [&] { backend->linear(p.output, p.input, p.prepared, rows); });
  p.check(6);
  BOOST_TEST(value_at(wide_output, 3, 9) == left);
  BOOST_TEST(value_at(wide_output, 3, 42) == right);
}

BOOST_AUTO_TEST_CASE(a_row_is_the_same_bits_at_any_place_of_any_step) {
  const auto backend = make_cpu_operations({.num_threads = 2});
  for (const auto& types : all_dtypes)
    for (const auto& [in, out] : std::vector<std::pair<int64_t, int64_t>>{
             {128, 1024}, {384, 128}, {72, 216}, {2048, 512}, {1536, 96}}) {
      product p(*backend, types.operand, types.output, 300, in, out, true);
      const auto rows = p.tensors.add_count(300);
      backend->linear(p.output, p.input, p.prepared, rows);
      const auto alone = p.tensors.add(types.output, {300, out});
      for (const int32_t live : {1, 2, 7, 17, 32, 33, 64, 129}) {
        memory::set(rows, live);
        for (const int64_t first : {0, 5, 150}) {
          const auto part = alone.slice_rows(0, 300 - first);
          backend->linear(part, p.input.slice_rows(first, 300 - first), p.prepared, rows);
          for (int64_t row = 0; row < live; ++row)
            BOOST_REQUIRE((row_bytes(part, row) == row_bytes(p.output, first + row)));
        }
      }
    }
}

BOOST_AUTO_TEST_CASE(a_first_weight_of_zeros_decides_nothing_for_its_shape) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  for (const auto& types : all_dtypes) {
    product zeros(*backend, types.operand, types.output, 1, 2048, 64, false);
    const auto one = zeros.tensors.add_count(1);
    std::memset(zeros.weight.data, 0, static_cast<size_t>(zeros.weight.span_bytes()));
    zeros.prepared = backend->prepare_linear("zeros", zeros.weight, zeros.bias);
    backend->linear(zeros.output, zeros.input, zeros.prepared, one);

    product p(*backend, types.operand, types.output, 100, 2048, 64, false);
    const auto rows = p.tensors.add_count(100);
    backend->linear(p.output, p.input, p.prepared, rows);
    const auto together = row_bytes(p.output, 3);
    memory::set(rows, 4);
    backend->linear(p.output, p.input, p.prepared, rows);
    BOOST_TEST((row_bytes(p.output, 3) == together), "a row depends on how many run beside it");
  }
}

BOOST_AUTO_TEST_CASE(the_source_of_a_weight_may_go) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  product p(*backend, dtype::f32, dtype::f32, 2, 8, 8, true);
  const auto rows = p.tensors.add_count(2);
  const double expected = p.expected(1, 5);
  poison(p.weight, 0);
  poison(p.bias, 0);
  backend->linear(p.output, p.input, p.prepared, rows);
  BOOST_TEST(value_at(p.output, 1, 5) == expected, boost::test_tools::tolerance(1e-5));
}

BOOST_AUTO_TEST_CASE(a_replay_allocates_no_arena) {
  const auto backend = make_cpu_operations({.num_threads = 1});
  product p(*backend, dtype::bf16, dtype::bf16, 200, 64, 64, false);
  const auto rows = p.tensors.add_count(200);
  backend->begin_capture(p.tensors.leases());
  backend->linear(p.output, p.input, p.prepared, rows);
  auto graph = backend->end_capture("linear");
  const auto before = read_counters().arena_allocations;
  for (const int32_t live : {200, 1, 77}) {
    memory::set(rows, live);
    graph.replay();
    p.check(live);
  }
  BOOST_TEST(read_counters().arena_allocations == before);
}

BOOST_AUTO_TEST_SUITE_END()
