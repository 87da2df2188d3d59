#include "gpu/error.hpp"
#include "tests/gpu/cpu_fixture.hpp"

#include <numbers>

using namespace troupe::gpu;
using namespace troupe::gpu::cpu;
using namespace troupe::gpu::cpu::test;

namespace {

constexpr int64_t capacity = 5;
const std::vector<int64_t> widths{1, 3, 8, 17, 72, 128, 200};

/// Every width, every live count; rows past it are NaN on the way in.
void for_sizes(const std::function<void(operations&, dtype, int64_t width, int32_t live)>& body) {
  for_backends([&](operations& backend, dtype type) {
    for (const int64_t width : widths)
      for (int32_t live = 0; live <= capacity; ++live)
        BOOST_TEST_CONTEXT("width " << width << ", " << live << " rows live")
    body(backend, type, width, live);
  });
}

double mean_square(const tensor_view& view, int64_t row) {
  double sum = 0;
  for (int64_t i = 0; i < view.width(); ++i) sum += std::pow(value_at(view, row, i), 2);
  return sum / static_cast<double>(view.width());
}

/// weight * round(x / rms) in double but for the rounding that the reference does.
double rms_normed(const tensor_view& input, const tensor_view& weight, int64_t row,
                  int64_t column) {
  const double scale = 1 / std::sqrt(mean_square(input, row) + 1e-6);
  return value_at(weight, 0, column) * rounded(input.type, value_at(input, row, column) * scale);
}

/// Where a value is rounded twice, the first rounding may fall to the other side.
constexpr double twice_rounded = 3;

/// A view's values before an operation changed them.
class values_before {
 public:
  explicit values_before(const tensor_view& view) : width_(view.width()) {
    for (int64_t row = 0; row < view.rows(); ++row)
      for (int64_t column = 0; column < width_; ++column)
        values_.push_back(value_at(view, row, column));
  }
  double operator()(int64_t row, int64_t column) const {
    return values_[static_cast<size_t>(row * width_ + column)];
  }

 private:
  int64_t width_;
  std::vector<double> values_;
};

}  // namespace

BOOST_AUTO_TEST_SUITE(cpu_rows_test)

BOOST_AUTO_TEST_CASE(rms_norm_equals_its_definition) {
  for_sizes([](operations& backend, dtype type, int64_t width, int32_t live) {
    memory tensors;
    const auto input = tensors.add_random(type, {capacity, width});
    const auto weight = tensors.add_random(type, {width});
    const auto output = tensors.add(type, {capacity, width});
    const auto rows = tensors.add_count(live);
    poison(input, live);
    run(backend, tensors, [&] { backend.rms_norm(output, input, weight, 1e-6F, rows); });
    check_rows(
        output, live,
        [&](int64_t row, int64_t column) { return rms_normed(input, weight, row, column); },
        twice_rounded);
  });
}

BOOST_AUTO_TEST_CASE(rms_norm_of_columns_in_place) {
  for_backends([](operations& backend, dtype type) {
    memory tensors;
    const auto wide = tensors.add_random(type, {3, 100});
    const auto weight = tensors.add_random(type, {33});
    const auto rows = tensors.add_count(3);
    const auto part = wide.slice_columns(50, 33);
    const values_before before(wide);
    memory reference;
    const auto copy = reference.add(type, {3, 33});
    for (int64_t row = 0; row < 3; ++row)
      for (int64_t column = 0; column < 33; ++column)
        set_value(copy, row, column, before(row, 50 + column));
    run(backend, tensors, [&] { backend.rms_norm(part, part, weight, 1e-6F, rows); });
    check_rows(
        part, 3, [&](int64_t row, int64_t column) { return rms_normed(copy, weight, row, column); },
        twice_rounded);
    for (int64_t row = 0; row < 3; ++row) {
      BOOST_TEST(value_at(wide, row, 49) == before(row, 49));
      BOOST_TEST(value_at(wide, row, 83) == before(row, 83));
    }
  });
}

BOOST_AUTO_TEST_CASE(layer_norm_equals_its_definition) {
  for_sizes([](operations& backend, dtype type, int64_t width, int32_t live) {
    memory tensors;
    const auto input = tensors.add_random(type, {capacity, width});
    const auto weight = tensors.add_random(type, {width});
    const auto bias = tensors.add_random(type, {width});
    const auto output = tensors.add(type, {capacity, width});
    const auto rows = tensors.add_count(live);
    poison(input, live);
    run(backend, tensors, [&] { backend.layer_norm(output, input, weight, bias, 1e-6F, rows); });
    check_rows(
        output, live,
        [&](int64_t row, int64_t column) {
          double mean = 0;
          for (int64_t i = 0; i < width; ++i) mean += value_at(input, row, i);
          mean /= static_cast<double>(width);
          const double variance = mean_square(input, row) - mean * mean;
          return (value_at(input, row, column) - mean) / std::sqrt(std::max(variance, 0.0) + 1e-6) *
                     value_at(weight, 0, column) +
                 value_at(bias, 0, column);
        },
        4);
  });
}

BOOST_AUTO_TEST_CASE(gated_linear_equals_its_definition_on_the_result_of_linear) {
  constexpr int64_t in = 24;
  for_backends([](operations& backend, dtype type) {
    for (const int64_t width : widths) {
      memory tensors;
      const auto weight =
          backend.prepare_linear("gate_up", tensors.add_random(type, {2 * width, in}),
                                 tensors.add_random(type, {2 * width}));
      const auto input = tensors.add_random(type, {capacity, in});
      const auto linear = tensors.add(type, {capacity, 2 * width});
      const auto gate_up = tensors.add(type, {capacity, 2 * width});
      const auto output = tensors.add(type, {capacity, width});
      const auto rows = tensors.add_count(0);
      for (int32_t live = capacity; live >= 0; --live)
        BOOST_TEST_CONTEXT("width " << width << ", " << live << " rows live") {
          memory::set(rows, live);
          poison(input, live);
          run(backend, tensors, [&] {
            backend.linear(linear, input, weight, rows);
            backend.gated_linear(output, gate_up, input, weight, rows);
          });
          check_rows(
              output, live,
              [&](int64_t row, int64_t column) {
                const double gate = value_at(linear, row, column);
                return rounded(type, gate / (1 + std::exp(-gate))) *
                       value_at(linear, row, width + column);
              },
              8);
        }
    }
  });
}

BOOST_AUTO_TEST_CASE(gelu_is_within_a_millionth) {
  for (const auto set : instruction_sets()) {
    const auto backend = make_backend(set);
    memory tensors;
    constexpr int64_t count = 40001;
    const auto input = tensors.add(dtype::f32, {1, count});
    for (int64_t i = 0; i < count; ++i)
      set_value(input, 0, i, (static_cast<double>(i) - 20000) / 2000);
    const auto tanh = tensors.add(dtype::f32, {1, count});
    const auto erf = tensors.add(dtype::f32, {1, count});
    const auto rows = tensors.add_count(1);
    run(*backend, tensors, [&] {
      backend->gelu(tanh, input, gelu_kind::tanh, rows);
      backend->gelu(erf, input, gelu_kind::erf, rows);
    });
    double worst_tanh = 0, worst_erf = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double x = value_at(input, 0, i);
      const double u = std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x);
      worst_tanh =
          std::max(worst_tanh, std::abs(value_at(tanh, 0, i) - 0.5 * x * (1 + std::tanh(u))));
      worst_erf = std::max(
          worst_erf, std::abs(value_at(erf, 0, i) - 0.5 * x * (1 + std::erf(x / std::sqrt(2.0)))));
    }
    BOOST_TEST(worst_tanh < 2e-6);  // x reaches 10: two units in its last place
    BOOST_TEST(worst_erf < 2e-6);
  }
}

BOOST_AUTO_TEST_CASE(gelu_of_all_sizes_and_extremes) {
  for_sizes([](operations& backend, dtype type, int64_t width, int32_t live) {
    memory tensors;
    const auto x = tensors.add_random(type, {capacity, width}, 3);
    if (live > 0) set_value(x, 0, 0, -1e30);
    if (live > 1) set_value(x, 1, 0, 1e30);
    const auto rows = tensors.add_count(live);
    const values_before before(x);
    poison(x, live);
    run(backend, tensors, [&] { backend.gelu(x, x, gelu_kind::erf, rows); });
    check_rows(x, live, [&](int64_t row, int64_t column) {
      const double value = before(row, column);
      return 0.5 * value * std::erfc(-value / std::sqrt(2.0));
    });
  });
}

BOOST_AUTO_TEST_CASE(nan_stays_nan) {
  for_backends([](operations& backend, dtype type) {
    memory tensors;
    const auto input = tensors.add_random(type, {1, 34});
    set_value(input, 0, 33, std::numeric_limits<double>::quiet_NaN());
    set_value(input, 0, 2, std::numeric_limits<double>::quiet_NaN());
    const auto activated = tensors.add(type, {1, 34});
    const auto normed = tensors.add(type, {1, 34});
    const auto rows = tensors.add_count(1);
    run(backend, tensors, [&] {
      backend.gelu(activated, input, gelu_kind::tanh, rows);
      backend.rms_norm(normed, input, input.at(0), 1e-6F, rows);
    });
    BOOST_TEST(std::isnan(value_at(activated, 0, 2)));
    BOOST_TEST(std::isnan(value_at(activated, 0, 33)));
    BOOST_TEST(!std::isnan(value_at(activated, 0, 3)));
    BOOST_TEST(std::isnan(value_at(normed, 0, 3)));
  });
}

BOOST_AUTO_TEST_CASE(add_rounds_once) {
  for_sizes([](operations& backend, dtype type, int64_t width, int32_t live) {
    memory tensors;
    const auto x = tensors.add_random(type, {capacity, width});
    const auto y = tensors.add_random(type, {capacity, width});
    const auto rows = tensors.add_count(live);
    const values_before before(x);
    poison(y, live);
    run(backend, tensors, [&] { backend.add(x, y, rows); });
    for (int64_t row = 0; row < capacity; ++row)
      for (int64_t column = 0; column < width; ++column)
        BOOST_TEST(value_at(x, row, column) ==
                   (row < live ? rounded(type, before(row, column) + value_at(y, row, column))
                               : before(row, column)));
  });
}

BOOST_AUTO_TEST_CASE(add_norm_follows_the_reference_order) {
  for_sizes([](operations& backend, dtype type, int64_t width, int32_t live) {
    memory tensors;
    const auto normed = tensors.add(type, {capacity, width});
    const auto residual = tensors.add_random(type, {capacity, width});
    const auto partial = tensors.add_random(dtype::f32, {capacity, width});
    const auto weight = tensors.add_random(type, {width});
    const auto pool = tensors.add_random(type, {3, 4, width});
    const auto row_map = tensors.add_ids({-1, 3, 0, -1, 2});
    const auto rows = tensors.add_count(live);
    for (const int32_t level : {-1, 2}) {
      poison(residual, live);
      poison(partial, live);
      const values_before before(residual);
      run(backend, tensors, [&] {
        backend.all_reduce_add_norm(normed, residual, partial, weight, 1e-6F, {pool, row_map},
                                    level, lane_view{}, rows);
      });
      for (int64_t row = 0; row < live; ++row)
        for (int64_t column = 0; column < width; ++column) {
          double wanted =
              rounded(type, before(row, column) + rounded(type, value_at(partial, row, column)));
          const int32_t visual = row_map.as<int32_t>()[row];
          if (level >= 0 && visual >= 0)
            wanted = rounded(type, wanted + value_at(pool.at(level), visual, column));
          BOOST_TEST(value_at(residual, row, column) == wanted);
        }
      check_rows(
          normed, live,
          [&](int64_t row, int64_t column) { return rms_normed(residual, weight, row, column); },
          twice_rounded);
    }
  });
}

BOOST_AUTO_TEST_CASE(embed_takes_table_pool_and_sampled_ids) {
  for_backends([](operations& backend, dtype type) {
    memory tensors;
    const auto output = tensors.add(type, {6, 33});
    const auto resolved = tensors.add(dtype::i32, {8});
    const auto ids = tensors.add_ids({4, -1, -2, 9, 1000, -77});
    const auto sampled = tensors.add_ids({7, 3});
    const auto table = tensors.add_random(type, {10, 33});
    const auto pool = tensors.add_random(type, {2, 5, 33});
    const auto row_map = tensors.add_ids({-1, -1, -1, 4, -1, -1});
    const auto rows = tensors.add_count(6);
    run(backend, tensors, [&] {
      backend.embed(output, resolved, ids, sampled, table, {pool, row_map}, rows);
    });
    const std::vector<int64_t> table_rows{4, 7, 3, -1, 0, 0};  // ids outside the table are row 0
    check_rows(output, 6, [&](int64_t row, int64_t column) {
      const int64_t source = table_rows[static_cast<size_t>(row)];
      return source < 0 ? value_at(pool.at(0), 4, column) : value_at(table, source, column);
    });
    BOOST_TEST(resolved.as<int32_t>()[1] == 7);
    BOOST_TEST(resolved.as<int32_t>()[2] == 3);
    BOOST_TEST(resolved.as<int32_t>()[3] == 9);
  });
}

BOOST_AUTO_TEST_CASE(gather_and_scatter_rows) {
  for_backends([](operations& backend, dtype type) {
    memory tensors;
    const auto source = tensors.add_random(type, {4, 19});
    const auto gathered = tensors.add(type, {3, 19});
    const auto pool = tensors.add(type, {5, 19});
    const auto index = tensors.add_ids({3, 0, 3});
    const auto destination = tensors.add_ids({4, -1, 1});
    const auto rows = tensors.add_count(3);
    run(backend, tensors, [&] {
      backend.gather_rows(gathered, source, index, rows);
      backend.scatter_rows(pool, gathered, destination, rows);
    });
    for (int64_t column = 0; column < 19; ++column) {
      BOOST_TEST(value_at(gathered, 1, column) == value_at(source, 0, column));
      BOOST_TEST(value_at(pool, 4, column) == value_at(source, 3, column));
      BOOST_TEST(value_at(pool, 1, column) == value_at(source, 3, column));
      BOOST_TEST(value_at(pool, 0, column) == 0);
    }
  });
}

BOOST_AUTO_TEST_CASE(position_embedding_is_bilinear_with_aligned_corners) {
  for_sizes([](operations& backend, dtype type, int64_t width, int32_t live) {
    memory tensors;
    constexpr int32_t side = 4;
    const auto x = tensors.add_random(type, {capacity, width});
    const auto table = tensors.add_random(type, {side * side, width});
    const auto coordinates = tensors.add(dtype::i32, {capacity, 4});
    const std::vector<std::vector<int32_t>> places{
        {0, 0, 7, 9}, {6, 8, 7, 9}, {0, 3, 1, 9}, {2, 1, 4, 4}, {3, 5, 7, 9}};
    for (int64_t row = 0; row < capacity; ++row)
      for (int64_t i = 0; i < 4; ++i)
        set_value(coordinates, row, i, places[static_cast<size_t>(row)][static_cast<size_t>(i)]);
    const auto rows = tensors.add_count(live);
    const values_before before(x);
    run(backend, tensors,
        [&] { backend.add_position_embedding(x, table, side, coordinates, rows); });
    check_rows(
        x, live,
        [&](int64_t row, int64_t column) {
          const auto& place = places[static_cast<size_t>(row)];
          const auto position = [](int32_t at, int32_t extent) {
            return extent == 1 ? 0.0 : at * double{side - 1} / (extent - 1);
          };
          const double r = position(place[0], place[2]), c = position(place[1], place[3]);
          double sum = 0;
          for (int32_t i = 0; i < side; ++i)
            for (int32_t j = 0; j < side; ++j)
              sum += std::max(0.0, 1 - std::abs(r - i)) * std::max(0.0, 1 - std::abs(c - j)) *
                     value_at(table, i * side + j, column);
          return before(row, column) + rounded(type, sum);
        },
        twice_rounded);
  });
}

BOOST_AUTO_TEST_CASE(vision_rope_turns_rows_then_columns) {
  for_backends([](operations& backend, dtype type) {
    for (const int64_t head_dim : {64, 72, 8}) {
      memory tensors;
      constexpr int32_t heads = 3;
      const auto qkv = tensors.add_random(type, {4, 3 * heads * head_dim});
      const auto coordinates = tensors.add(dtype::i32, {4, 4});
      for (int64_t row = 0; row < 4; ++row) {
        set_value(coordinates, row, 0, static_cast<double>(row * 1200));
        set_value(coordinates, row, 1, static_cast<double>(17 - row));
      }
      const auto rows = tensors.add_count(4);
      const values_before before(qkv);
      run(backend, tensors, [&] { backend.vision_rope(qkv, heads, coordinates, 10000, rows); });
      check_rows(
          qkv, 4,
          [&](int64_t row, int64_t column) {
            if (column >= 2 * heads * head_dim) return before(row, column);
            const int64_t half = head_dim / 2, quarter = head_dim / 4;
            const int64_t i = column % head_dim;
            const int64_t pair = i % half;
            const auto place = static_cast<float>(value_at(coordinates, row, pair / quarter));
            const float frequency =
                1.0F / std::pow(10000.0F, static_cast<float>(2 * (pair % quarter)) /
                                              static_cast<float>(half));
            const double angle = static_cast<double>(place * frequency);
            const double sign = i < half ? -1 : 1;
            const double partner = before(row, i < half ? column + half : column - half);
            return before(row, column) * std::cos(angle) + sign * partner * std::sin(angle);
          },
          4);
    }
  });
}

BOOST_AUTO_TEST_CASE(a_row_does_not_depend_on_other_rows_or_threads) {
  for_backends(
      [](operations& backend, dtype type) {
        memory tensors;
        constexpr int64_t many = 100, width = 1000;
        const auto input = tensors.add_random(type, {many, width});
        const auto weight = tensors.add_random(type, {width});
        const auto together = tensors.add(type, {many, width});
        const auto alone = tensors.add(type, {1, width});
        const auto all = tensors.add_count(many);
        const auto one = tensors.add_count(1);
        backend.rms_norm(together, input, weight, 1e-6F, all);
        for (const int64_t row : {0, 1, 49, 50, 99}) {
          backend.rms_norm(alone, input.slice_rows(row, 1), weight, 1e-6F, one);
          BOOST_TEST((row_bytes(alone, 0) == row_bytes(together, row)));
        }
      },
      2);
}

BOOST_AUTO_TEST_CASE(views_that_do_not_fit_are_refused) {
  memory tensors;
  const auto backend = make_backend(best_instruction_set());
  const auto output = tensors.add(dtype::f32, {4, 8});
  const auto wide = tensors.add(dtype::f32, {4, 9});
  const auto half = tensors.add(dtype::bf16, {4, 8});
  const auto weight = tensors.add(dtype::f32, {8});
  const auto rows = tensors.add_count(1);
  const auto text_of = [](const std::function<void()>& call) -> std::string {
    try {
      call();
    } catch (const error& failure) {
      return failure.what();
    }
    return "accepted";
  };
  BOOST_TEST(text_of([&] { backend->rms_norm(output, wide, weight, 1e-6F, rows); }) ==
             "rms_norm input has rows of 9 elements, expected 8");
  BOOST_TEST(text_of([&] { backend->rms_norm(output, half, weight, 1e-6F, rows); }) ==
             "rms_norm input is bf16, expected f32");
  BOOST_TEST(text_of([&] { backend->add(output, output.slice_rows(0, 2), rows); }) ==
             "add operand has 2 rows, expected at least 4");
}

BOOST_AUTO_TEST_SUITE_END()
