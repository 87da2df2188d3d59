#include "tests/gpu/cpu_fixture.hpp"

#include <algorithm>
#include <numeric>

using namespace troupe::gpu;
using namespace troupe::gpu::cpu;
using namespace troupe::gpu::cpu::test;

namespace {

struct expert_case {
  memory tensors;
  int64_t hidden, width, experts;
  int32_t top_k;
  tensor_view input, logits, output;
  std::vector<tensor_view> gate_up_source, down_source;
  std::vector<linear_weight> gate_up, down;

  expert_case(operations& backend, dtype type, int64_t rows, int64_t hidden_size,
              int64_t expert_width, int64_t num_experts, int32_t chosen)
      : hidden(hidden_size), width(expert_width), experts(num_experts), top_k(chosen) {
    input = tensors.add_random(type, {rows, hidden});
    logits = tensors.add_random(dtype::f32, {rows, experts});
    output = tensors.add_random(dtype::f32, {rows, hidden});
    for (int64_t e = 0; e < experts; ++e) {
      gate_up_source.push_back(tensors.add_random(type, {2 * width, hidden}, 0.3));
      down_source.push_back(tensors.add_random(type, {hidden, width}, 0.3));
      gate_up.push_back(backend.prepare_linear("gate_up", gate_up_source.back(), {}));
      down.push_back(backend.prepare_linear("down", down_source.back(), {}));
    }
  }

  void issue(operations& backend, live_count rows) {
    backend.mixture_of_experts(output, input, logits, top_k, gate_up, down, rows);
  }

  /// Chosen experts and their weights, lowest index first among equal logits.
  std::vector<std::pair<int64_t, double>> route(int64_t row) const {
    std::vector<int64_t> order(static_cast<size_t>(experts));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return value_at(logits, row, a) > value_at(logits, row, b);
    });
    double total = 0;
    std::vector<std::pair<int64_t, double>> chosen;
    for (int32_t k = 0; k < top_k; ++k) {
      const double weight = std::exp(value_at(logits, row, order[static_cast<size_t>(k)]));
      chosen.emplace_back(order[static_cast<size_t>(k)], weight);
      total += weight;
    }
    for (auto& entry : chosen) entry.second = rounded(input.type, entry.second / total);
    return chosen;
  }

  std::vector<double> expected_row(int64_t row) const {
    std::vector<double> result(static_cast<size_t>(hidden));
    for (const auto& [expert, weight] : route(row)) {
      const auto& up = gate_up_source[static_cast<size_t>(expert)];
      const auto& out = down_source[static_cast<size_t>(expert)];
      std::vector<double> activated;
      for (int64_t i = 0; i < width; ++i) {
        double g = 0, u = 0;
        for (int64_t k = 0; k < hidden; ++k) {
          g += value_at(up, i, k) * value_at(input, row, k);
          u += value_at(up, width + i, k) * value_at(input, row, k);
        }
        g = rounded(input.type, g);
        activated.push_back(rounded(
            input.type, rounded(input.type, g / (1 + std::exp(-g))) * rounded(input.type, u)));
      }
      for (int64_t j = 0; j < hidden; ++j)
        for (int64_t i = 0; i < width; ++i)
          result[static_cast<size_t>(j)] +=
              weight * value_at(out, j, i) * activated[static_cast<size_t>(i)];
    }
    return result;
  }

  void check(int64_t rows) const {
    for (int64_t row = 0; row < rows; ++row) {
      const auto wanted = expected_row(row);
      // bf16: an activation may be rounded to the other side; 4 terms' worth.
      const double allowed = input.type == dtype::bf16 ? 0.03 : 1e-5;
      for (int64_t j = 0; j < hidden; ++j)
        BOOST_REQUIRE_SMALL(value_at(output, row, j) - wanted[static_cast<size_t>(j)],
                            allowed * (1 + std::abs(wanted[static_cast<size_t>(j)])));
    }
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_experts_test)

BOOST_AUTO_TEST_CASE(mixture_equals_its_definition_at_every_live_count) {
  for_backends([](operations& backend, dtype type) {
    expert_case test(backend, type, 9, 40, 24, 8, 2);
    const auto rows = test.tensors.add_count(0);
    for (const int32_t live : {9, 8, 3, 1, 0}) {
      memory::set(rows, live);
      poison(test.input, live);
      poison(test.logits, live);
      run(backend, test.tensors, [&] { test.issue(backend, rows); });
      test.check(live);
    }
  });
}

BOOST_AUTO_TEST_CASE(ties_go_to_the_lowest_expert) {
  for_backends([](operations& backend, dtype type) {
    expert_case test(backend, type, 2, 16, 8, 5, 2);
    for (int64_t e = 0; e < 5; ++e) {
      set_value(test.logits, 0, e, 1);
      set_value(test.logits, 1, e, e == 3 ? 2 : 1);
    }
    BOOST_TEST(test.route(0)[1].first == 1);
    const auto rows = test.tensors.add_count(2);
    run(backend, test.tensors, [&] { test.issue(backend, rows); });
    test.check(2);
  });
}

BOOST_AUTO_TEST_CASE(all_experts_for_one_row_and_all_rows_for_one_expert) {
  for_backends([](operations& backend, dtype type) {
    expert_case every(backend, type, 1, 16, 8, 3, 3);
    const auto one = every.tensors.add_count(1);
    run(backend, every.tensors, [&] { every.issue(backend, one); });
    every.check(1);

    expert_case same(backend, type, 140, 16, 8, 3, 1);
    for (int64_t row = 0; row < 140; ++row) set_value(same.logits, row, 2, 50);
    const auto all = same.tensors.add_count(140);
    run(backend, same.tensors, [&] { same.issue(backend, all); });
    same.check(140);
  });
}

BOOST_AUTO_TEST_CASE(a_row_is_the_same_bits_alone) {
  for_backends([](operations& backend, dtype type) {
    expert_case test(backend, type, 50, 64, 32, 8, 2);
    const auto rows = test.tensors.add_count(50);
    test.issue(backend, rows);
    std::vector<std::vector<std::byte>> together;
    for (int64_t row = 0; row < 50; ++row) together.push_back(row_bytes(test.output, row));
    memory::set(rows, 1);
    for (const int64_t row : {0, 7, 49}) {
      backend.mixture_of_experts(test.output.slice_rows(0, 1), test.input.slice_rows(row, 1),
                                 test.logits.slice_rows(row, 1), test.top_k, test.gate_up,
                                 test.down, rows);
      BOOST_TEST((row_bytes(test.output, 0) == together[static_cast<size_t>(row)]));
    }
  });
}

BOOST_AUTO_TEST_SUITE_END()
