#include "gpu/backend.hpp"
#include "gpu/error.hpp"
#include "gpu/host_matrix.hpp"
#include "tests/support/runner_group.hpp"

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

/// Weights on their way from host memory to the tested device.
namespace {

namespace gpu = troupe::gpu;

constexpr int64_t value_bytes = 2;

/// Random bytes of a file, and who asked for them.
class recorded_bytes final : public gpu::weight_bytes {
 public:
  explicit recorded_bytes(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    std::mt19937 random(1);
    for (auto& byte : bytes_) byte = static_cast<std::byte>(random());
  }
  const std::byte* data() const { return bytes_.data(); }

  void announce(int64_t bytes) override { announced += bytes; }
  void fetch(const std::byte* first, int64_t bytes) override {
    const std::byte* end = bytes_.data() + bytes_.size();
    if (first < bytes_.data() || first + bytes > end) outside = true;
    if (fails) throw std::runtime_error("the file is shorter than it was");
  }

  int64_t announced = 0;
  std::atomic<bool> outside = false;
  bool fails = false;

 private:
  std::vector<std::byte> bytes_;
};

struct device {
  device() {
    options.device = troupe::testing::tested_device();
    gpu::use_device(options);
    backend = gpu::make_operations(options);
  }

  /// What `load` makes of a matrix.
  std::vector<std::byte> load(const gpu::host_matrix& matrix) {
    gpu::arena arena("loaded", backend->memory());
    arena.reserve("bytes", gpu::dtype::u8, {matrix.bytes()});
    arena.seal();
    backend->load(matrix.view_at(arena.base()), matrix);
    backend->synchronize();
    std::vector<std::byte> bytes(static_cast<size_t>(matrix.bytes()));
    backend->download(bytes.data(), arena.view(0), matrix.bytes());
    backend->synchronize();
    return bytes;
  }

  gpu::backend_options options;
  std::unique_ptr<gpu::operations> backend;
};

/// Value by value.
std::vector<std::byte> put_together(const gpu::host_matrix& matrix) {
  std::vector<std::byte> bytes;
  for (const auto& part : matrix.parts())
    for (int64_t row = 0; row < part.rows; ++row)
      for (int64_t column = 0; column < matrix.width(); ++column) {
        const auto* value =
            part.data + (row * part.row_stride + column * part.column_stride) * value_bytes;
        bytes.insert(bytes.end(), value, value + value_bytes);
      }
  return bytes;
}

gpu::host_matrix matrix_of(int64_t width, const std::vector<gpu::matrix_part>& parts,
                           std::shared_ptr<gpu::weight_bytes> source) {
  return {gpu::dtype::bf16, width, parts, std::move(source)};
}

}  // namespace

BOOST_FIXTURE_TEST_SUITE(loading, device)

BOOST_AUTO_TEST_CASE(parts_of_every_kind_are_put_together) {
  // Over and under one piece of the ring; strides and sizes that no vector divides.
  const auto source = std::make_shared<recorded_bytes>(int64_t{48} << 20);
  const std::byte* data = source->data();
  const gpu::matrix_part dense{data + 2, 1500, 1001}, gaps{data + 4'000'000, 1200, 1303},
      turned{data + 10'000'000, 1031, 1, 1037}, small{data + 20'000'000, 3, 1, 5},
      odd{data + 30'000'001, 7, 1001};
  for (const auto& parts : std::vector<std::vector<gpu::matrix_part>>{
           {dense}, {gaps}, {turned}, {small}, {odd}, {odd, turned, dense, small, gaps}}) {
    const auto matrix = matrix_of(1001, parts, source);
    BOOST_TEST((load(matrix) == put_together(matrix)));
  }
  BOOST_TEST(!source->outside);
}

BOOST_AUTO_TEST_CASE(parts_that_continue_each_other_become_one) {
  const auto source = std::make_shared<recorded_bytes>(1 << 16);
  const std::byte* data = source->data();
  const auto rows = matrix_of(64, {{data, 10, 64}, {data + 10 * 64 * 2, 20, 64}}, source);
  BOOST_TEST(rows.parts().size() == 1u);
  BOOST_TEST(rows.load().view.data == data);
  const auto columns = matrix_of(64, {{data, 8, 1, 16}, {data + 8 * 2, 8, 1, 16}}, source);
  BOOST_TEST(columns.parts().size() == 1u);
  BOOST_TEST(matrix_of(64, {{data, 10, 64}, {data + 10 * 64 * 2, 20, 65}}, source).parts().size() ==
             2u);
}

BOOST_AUTO_TEST_CASE(many_weights_at_once) {
  const auto source = std::make_shared<recorded_bytes>(int64_t{8} << 20);
  std::vector<gpu::host_matrix> matrices;
  int64_t bytes = 0;
  for (int64_t i = 0; i < 200; ++i) {
    const auto* data = source->data() + i * 8192;
    matrices.push_back(i % 2 == 0 ? matrix_of(64 + i, {{data, 50, 64 + i}}, source)
                                  : matrix_of(64, {{data, 50 + i, 1, 50 + i}}, source));
    bytes += matrices.back().bytes();
  }
  gpu::arena arena("loaded", backend->memory());
  for (const auto& matrix : matrices) arena.reserve("weight", gpu::dtype::u8, {matrix.bytes()});
  arena.seal();
  for (int32_t i = 0; i < static_cast<int32_t>(matrices.size()); ++i)
    backend->load(matrices[static_cast<size_t>(i)].view_at(arena.view(i).data),
                  matrices[static_cast<size_t>(i)]);
  backend->synchronize();
  BOOST_TEST(source->announced == bytes);
  for (int32_t i = 0; i < static_cast<int32_t>(matrices.size()); ++i) {
    const auto& matrix = matrices[static_cast<size_t>(i)];
    std::vector<std::byte> loaded(static_cast<size_t>(matrix.bytes()));
    backend->download(loaded.data(), arena.view(i), matrix.bytes());
    backend->synchronize();
    BOOST_TEST_CONTEXT("weight " << i) BOOST_TEST((loaded == put_together(matrix)));
  }
}

BOOST_AUTO_TEST_CASE(memory_of_the_caller_may_go_at_once) {
  std::vector<uint16_t> values(3'000'001, 7);
  gpu::arena arena("loaded", backend->memory());
  arena.reserve("values", gpu::dtype::bf16, {std::ssize(values)});
  arena.seal();
  backend->load(arena.view(0), gpu::make_view(values.data(), gpu::dtype::bf16, std::ssize(values)));
  const std::vector<uint16_t> expected = values;
  values.assign(values.size(), 0);
  backend->synchronize();
  backend->download(values.data(), arena.view(0), std::ssize(values) * value_bytes);
  backend->synchronize();
  BOOST_TEST((values == expected));
}

BOOST_AUTO_TEST_CASE(a_source_that_fails_is_an_error_and_not_the_end) {
  const auto source = std::make_shared<recorded_bytes>(int64_t{16} << 20);
  source->fails = true;
  const auto matrix = matrix_of(1024, {{source->data(), 8000, 1024}}, source);
  BOOST_CHECK_EXCEPTION(load(matrix), std::runtime_error, [](const auto& fault) {
    return std::string(fault.what()).find("shorter") != std::string::npos;
  });
  source->fails = false;
  BOOST_TEST((load(matrix) == put_together(matrix)));
}

BOOST_AUTO_TEST_SUITE_END()
