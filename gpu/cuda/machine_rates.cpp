#include "gpu/arena.hpp"
#include "gpu/cuda/event.hpp"
#include "gpu/cuda/kernels/flag_trips.hpp"
#include "gpu/cuda/kernels/read_stream.hpp"
#include "gpu/cuda/linear.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/cuda/stream.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/error.hpp"

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>

namespace troupe::gpu {
namespace {

using cuda::check;

constexpr int runs = 20;

/// Seconds of the fastest of several runs of what `issue` puts on `work`.
double fastest(const cuda::stream& work, const std::function<void()>& issue) {
  cuda::event begin(cuda::event_timing::on), end(cuda::event_timing::on);
  float best = std::numeric_limits<float>::infinity();
  for (int run = 0; run < runs; ++run) {
    begin.record(work.get());
    issue();
    end.record(work.get());
    end.wait("measuring the device");
    best = std::min(best, end.milliseconds_since(begin));
  }
  return static_cast<double>(best) * 1e-3;
}

int32_t sms_here() {
  int sms = 0, device = 0;
  check(cudaGetDevice(&device), "cudaGetDevice");
  check(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device), "number of SMs");
  return sms;
}

}  // namespace

double measure_cuda_read_rate() {
  constexpr int64_t bytes = int64_t{4} << 30;
  const cuda::stream work(false);
  arena memory("read_rate", memory_kind::device);
  const int32_t data = memory.reserve("data", dtype::u8, {bytes});
  const int32_t sink = memory.reserve("sink", dtype::i32, {1});
  memory.seal();
  const double seconds = fastest(work, [&] {
    cuda::launch_read_stream(memory.view(data).data, bytes, memory.view(sink).as<uint32_t>(),
                             {work.get(), false, sms_here()});
  });
  return static_cast<double>(bytes) / seconds;
}

double measure_cuda_link_rate(const std::byte* peer, int64_t bytes) {
  const cuda::stream work(false);
  arena memory("link_rate", memory_kind::device);
  const int32_t sink = memory.reserve("sink", dtype::i32, {1});
  memory.seal();
  const double seconds = fastest(work, [&] {
    cuda::launch_read_stream(peer, bytes, memory.view(sink).as<uint32_t>(),
                             {work.get(), false, sms_here()});
  });
  return static_cast<double>(bytes) / seconds;
}

double measure_cuda_flag_round_trip(const lane_view& lane) {
  constexpr int32_t trips = 10'000;
  const cuda::stream work(false);
  arena memory("flag_round_trip", memory_kind::device);
  const int32_t elapsed = memory.reserve("elapsed", dtype::i64, {1});
  memory.seal();
  cuda::launch_flag_trips(lane, trips, memory.view(elapsed).as<uint64_t>(),
                          {work.get(), false, 1});
  uint64_t elapsed_ns = 0;
  check(cudaMemcpyAsync(&elapsed_ns, memory.view(elapsed).data, sizeof elapsed_ns,
                        cudaMemcpyDeviceToHost, work.get()),
        "cudaMemcpyAsync");
  check(cudaStreamSynchronize(work.get()), "flag round trips");
  if (elapsed_ns == 0) throw error("flags got no answer from another rank");
  return static_cast<double>(elapsed_ns) * 1e-9 / (trips - 1);
}

double measure_cuda_copy_rate() {
  constexpr int64_t bytes = int64_t{1} << 30;
  const cuda::stream work(false);
  arena memory("copy_rate", memory_kind::device);
  const int32_t data = memory.reserve("data", dtype::u8, {bytes});
  memory.seal();
  void* pinned = nullptr;
  check(cudaHostAlloc(&pinned, static_cast<size_t>(bytes), cudaHostAllocDefault), "cudaHostAlloc");
  const std::unique_ptr<void, cudaError_t (*)(void*)> owner(pinned, &cudaFreeHost);
  const double seconds = fastest(work, [&] {
    check(cudaMemcpyAsync(memory.view(data).data, pinned, static_cast<size_t>(bytes),
                          cudaMemcpyHostToDevice, work.get()),
          "cudaMemcpyAsync");
  });
  return static_cast<double>(bytes) / seconds;
}

double measure_cuda_matmul_rate(dtype type) {
  constexpr int64_t size = 8192;
  const cuda::stream work(false);
  cuda::library_linear library(work.get());
  arena memory("matmul_rate", memory_kind::device);
  const int32_t a = memory.reserve("a", type, {size, size});
  const int32_t b = memory.reserve("b", type, {size, size});
  const int32_t c = memory.reserve("c", type, {size, size});
  memory.seal();
  // Not zeros: a multiplier that never toggles draws less power and runs faster than real data lets it.
  for (const int32_t operand : {a, b})
    cuda::fill_random(memory.view(operand), work.get());
  const double seconds = fastest(work, [&] {
    library.run({memory.view(c), memory.view(a), memory.view(b), {}}, false);
  });
  return 2.0 * size * size * size / seconds;
}

}  // namespace troupe::gpu
