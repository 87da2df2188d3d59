#include "gpu/cpu/machine_rates.hpp"

#include "gpu/arena.hpp"
#include "gpu/error.hpp"

#include <fmt/format.h>
#include <omp.h>
#include <dnnl.hpp>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <numeric>

namespace troupe::gpu::cpu {
namespace {

using clock = std::chrono::steady_clock;

// Over ten times any last-level cache in use.
constexpr int64_t stream_bytes = int64_t{1} << 30;
constexpr int passes = 5;
constexpr int64_t matmul_edge = 2048;

double seconds_of(const auto& work) {
  const auto begin = clock::now();
  work();
  return std::chrono::duration<double>(clock::now() - begin).count();
}

/// Shortest of `passes` runs after one to warm up.
double best_seconds(const auto& work) {
  work();
  double best = seconds_of(work);
  for (int pass = 1; pass < passes; ++pass) best = std::min(best, seconds_of(work));
  return best;
}

/// Sums words so that every byte is loaded; eight chains keep the load ports busy.
uint64_t read_all(const uint64_t* words, int64_t count) {
  uint64_t sums[8]{};
  for (int64_t i = 0; i + 8 <= count; i += 8)
    for (int lane = 0; lane < 8; ++lane) sums[lane] += words[i + lane];
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

}  // namespace

double measure_read_rate(int32_t num_threads) {
  const int64_t count = stream_bytes / 8;
  arena buffer("stream", memory_kind::host);  // the same pages that weights lie in
  buffer.reserve("words", dtype::i64, {count});
  buffer.seal();
  auto* words = reinterpret_cast<uint64_t*>(buffer.base());
  std::fill_n(words, count, uint64_t{1});
  uint64_t total = 0;
  const double seconds = best_seconds([&] {
#pragma omp parallel num_threads(num_threads) reduction(+ : total)
    {
      const int64_t share = count / omp_get_num_threads();
      total += read_all(words + share * omp_get_thread_num(), share);
    }
  });
  // The sum is known; using it keeps the reads from being optimised away.
  if (total == 0) throw error("the read benchmark lost its data");
  return static_cast<double>(stream_bytes) / seconds;
}

double measure_matmul_rate(int32_t num_threads, dtype type) try {
  using memory = dnnl::memory;
  const auto data_type = type == dtype::bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  const int previous_threads = omp_get_max_threads();
  omp_set_num_threads(num_threads);

  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  const memory::dims dims{matmul_edge, matmul_edge};
  const memory::desc plain(dims, data_type, memory::format_tag::ab);
  const memory::desc packed(dims, data_type, memory::format_tag::any);
  const memory::desc result(dims, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc description(dnnl::matmul::desc(plain, packed, result), engine);
  memory source(plain, engine), weights(description.weights_desc(), engine), output(result, engine);
  std::fill_n(static_cast<uint8_t*>(source.get_data_handle()), plain.get_size(), uint8_t{0x3c});
  std::fill_n(static_cast<uint8_t*>(weights.get_data_handle()),
              description.weights_desc().get_size(), uint8_t{0x3c});

  const dnnl::matmul matmul(description);
  const double seconds = best_seconds([&] {
    matmul.execute(stream,
                   {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, weights}, {DNNL_ARG_DST, output}});
    stream.wait();
  });
  omp_set_num_threads(previous_threads);
  return 2.0 * matmul_edge * matmul_edge * matmul_edge / seconds;
} catch (const dnnl::error& failure) {
  throw error(fmt::format("the matmul benchmark failed with oneDNN status {}",
                          static_cast<int>(failure.status)));
}

}  // namespace troupe::gpu::cpu
