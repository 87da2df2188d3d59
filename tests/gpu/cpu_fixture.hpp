#pragma once

#include "gpu/bfloat16.hpp"
#include "gpu/cpu/cpu_operations.hpp"
#include "gpu/cpu/kernels.hpp"
#include "gpu/operations.hpp"

#include <boost/test/unit_test.hpp>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <span>
#include <string>
#include <vector>

/// What tests of CPU operations share: tensors in arenas, values as doubles, and a run that
/// compares eager with recorded execution.
namespace troupe::gpu::cpu::test {

inline std::vector<instruction_set> instruction_sets() {
  std::vector<instruction_set> sets{instruction_set::generic};
  if (best_instruction_set() >= instruction_set::avx2) sets.push_back(instruction_set::avx2);
  if (best_instruction_set() >= instruction_set::avx512) sets.push_back(instruction_set::avx512);
  if (best_instruction_set() >= instruction_set::avx512_bf16)
    sets.push_back(instruction_set::avx512_bf16);
  return sets;
}

inline double value_at(const tensor_view& view, int64_t row, int64_t column) {
  const int64_t i = row * view.row_stride + column;
  switch (view.type) {
    case dtype::f32:
      return static_cast<double>(view.as<float>()[i]);
    case dtype::bf16:
      return static_cast<double>(to_float(view.as<bfloat16>()[i]));
    case dtype::i32:
      return view.as<int32_t>()[i];
    case dtype::i64:
      return static_cast<double>(view.as<int64_t>()[i]);
    case dtype::u8:
      return view.as<uint8_t>()[i];
  }
  return 0;
}

inline void set_value(const tensor_view& view, int64_t row, int64_t column, double value) {
  const int64_t i = row * view.row_stride + column;
  switch (view.type) {
    case dtype::f32:
      view.as<float>()[i] = static_cast<float>(value);
      break;
    case dtype::bf16:
      view.as<bfloat16>()[i] = to_bfloat16(static_cast<float>(value));
      break;
    case dtype::i32:
      view.as<int32_t>()[i] = static_cast<int32_t>(value);
      break;
    case dtype::i64:
      view.as<int64_t>()[i] = static_cast<int64_t>(value);
      break;
    case dtype::u8:
      view.as<uint8_t>()[i] = static_cast<uint8_t>(value);
      break;
  }
}

/// `value` rounded to `type`.
inline double rounded(dtype type, double value) {
  const auto single = static_cast<float>(value);
  return static_cast<double>(type == dtype::bf16 ? to_float(to_bfloat16(single)) : single);
}

/// Half a unit in the last place of a bf16 result, or the rounding of a short fp32 sum, at
/// magnitude `scale`.
inline double tolerance(dtype type, double scale) {
  return (type == dtype::bf16 ? 0x1p-8 : 4e-6) * (std::abs(scale) + 1e-3);
}

/// Tensors of one test, each in an arena of its own.
class memory {
 public:
  tensor_view add(dtype type, std::initializer_list<int64_t> shape) {
    arenas_.emplace_back("tensor", memory_kind::host);
    arenas_.back().reserve("tensor", type, shape);
    arenas_.back().seal();
    views_.push_back(arenas_.back().view(0));
    return views_.back();
  }
  tensor_view add_random(dtype type, std::initializer_list<int64_t> shape, double scale = 1) {
    const tensor_view view = add(type, shape);
    std::normal_distribution<double> normal(0, scale);
    for (int64_t row = 0; row < view.rows(); ++row)
      for (int64_t column = 0; column < view.width(); ++column)
        set_value(view, row, column, normal(random_));
    return view;
  }
  tensor_view add_ids(std::vector<int32_t> ids) {
    const tensor_view view = add(dtype::i32, {static_cast<int64_t>(ids.size())});
    std::copy(ids.begin(), ids.end(), view.as<int32_t>());
    return view;
  }
  live_count add_count(int32_t count) { return {add_ids({count}).as<int32_t>()}; }
  static void set(live_count count, int32_t value) { *const_cast<int32_t*>(count.value) = value; }

  std::vector<arena_lease> leases() const {
    std::vector<arena_lease> leases;
    for (const auto& arena : arenas_) leases.push_back(arena.lease());
    return leases;
  }

  std::vector<std::vector<std::byte>> contents() const {
    std::vector<std::vector<std::byte>> all;
    for (const auto& view : views_) all.emplace_back(view.data, view.data + view.span_bytes());
    return all;
  }
  void restore(const std::vector<std::vector<std::byte>>& contents) {
    for (size_t i = 0; i < contents.size(); ++i)
      std::copy(contents[i].begin(), contents[i].end(), views_[i].data);
  }

  std::mt19937& random() { return random_; }

 private:
  std::vector<arena> arenas_;
  std::vector<tensor_view> views_;
  std::mt19937 random_{7};
};

/// Rows [first, end) become NaN: whatever reads them shows it.
inline void poison(const tensor_view& view, int64_t first) {
  for (int64_t row = first; row < view.rows(); ++row)
    for (int64_t column = 0; column < view.width(); ++column)
      set_value(view, row, column, std::numeric_limits<double>::quiet_NaN());
}

inline std::unique_ptr<operations> make_backend(instruction_set set, int32_t threads = 1) {
  return std::make_unique<cpu_operations>(cpu_options{threads}, kernels_of(set));
}

/// Issues the operations eagerly, then captures and replays them on the same inputs: every tensor
/// must hold the same bits after both.
inline void run(operations& backend, memory& tensors, const std::function<void()>& issue) {
  const auto before = tensors.contents();
  issue();
  const auto eager = tensors.contents();
  tensors.restore(before);
  backend.begin_capture(tensors.leases());
  issue();
  BOOST_TEST((tensors.contents() == before), "recording ran something");
  auto graph = backend.end_capture("test");
  graph.replay();
  BOOST_TEST((tensors.contents() == eager), "a replay differs from eager execution");
}

using expected_value = std::function<double(int64_t row, int64_t column)>;

/// Compares the first `rows` rows with a double-precision reference.
inline void check_rows(const tensor_view& output, int64_t rows, const expected_value& expected,
                       double scale = 1) {
  double worst = 0;
  for (int64_t row = 0; row < rows; ++row)
    for (int64_t column = 0; column < output.width(); ++column) {
      const double wanted = expected(row, column);
      const double found = value_at(output, row, column);
      const double allowed = tolerance(output.type, std::max(scale, std::abs(wanted)));
      if (!(std::abs(found - wanted) <= allowed)) {
        BOOST_TEST_ERROR("row " << row << " column " << column << " is " << found << ", expected "
                                << wanted << " within " << allowed);
        return;
      }
      worst = std::max(worst, std::abs(found - wanted) / allowed);
    }
  BOOST_TEST_MESSAGE("worst error is " << worst << " of the tolerance");
}

inline std::vector<std::byte> row_bytes(const tensor_view& view, int64_t row) {
  const std::byte* data = view.data + row * view.row_stride * size_of(view.type);
  return {data, data + view.width() * size_of(view.type)};
}

/// For every instruction set and activation dtype of this machine. One thread: teams meet at
/// barriers, which take milliseconds on a machine that does something else beside the test.
inline void for_backends(const std::function<void(operations&, dtype)>& body, int32_t threads = 1) {
  for (const auto set : instruction_sets()) {
    const auto backend = make_backend(set, threads);
    for (const auto type : {dtype::f32, dtype::bf16})
      BOOST_TEST_CONTEXT(kernels_of(set).name << (type == dtype::bf16 ? " bf16" : " f32"))
    body(*backend, type);
  }
}

}  // namespace troupe::gpu::cpu::test
