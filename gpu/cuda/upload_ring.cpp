#include "gpu/cuda/upload_ring.hpp"

#include "gpu/cuda/status.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace troupe::gpu::cuda {
namespace {

// One piece must be long against the start of a copy, and all buffers short against the memory of a
// machine; two buffers per thread keep it reading while the other one is sent.
constexpr int64_t piece_bytes = int64_t{8} << 20;
constexpr int buffers_per_worker = 2;
constexpr unsigned max_workers = 8;

/// A pinned buffer and the event that says when the copy engine has read it.
struct pinned_buffer {
  std::byte* memory = nullptr;
  cudaEvent_t sent = nullptr;

  pinned_buffer() {
    check(cudaHostAlloc(reinterpret_cast<void**>(&memory), static_cast<size_t>(piece_bytes),
                        cudaHostAllocDefault),
          "cudaHostAlloc");
    check(cudaEventCreateWithFlags(&sent, cudaEventDisableTiming), "cudaEventCreate");
  }
  pinned_buffer(const pinned_buffer&) = delete;
  pinned_buffer& operator=(const pinned_buffer&) = delete;
  ~pinned_buffer() {
    cudaEventDestroy(sent);
    cudaFreeHost(memory);
  }
};

/// One matrix under way.
struct upload {
  std::byte* target = nullptr;
  const tensor_view* source = nullptr;
  int64_t row_bytes = 0;
  int64_t rows_per_piece = 0;
  int64_t pieces = 0;
};

void gather_rows(std::byte* buffer, const upload& work, int64_t first, int64_t count) {
  const tensor_view& source = *work.source;
  const int64_t stride = source.row_stride * size_of(source.type);
  const std::byte* from = source.data + first * stride;
  if (stride == work.row_bytes) {
    std::memcpy(buffer, from, static_cast<size_t>(count * work.row_bytes));
    return;
  }
  for (int64_t row = 0; row < count; ++row)
    std::memcpy(buffer + row * work.row_bytes, from + row * stride,
                static_cast<size_t>(work.row_bytes));
}

}  // namespace

struct upload_ring::state {
  int device = 0;
  cudaStream_t stream = nullptr;
  std::vector<std::thread> workers;

  std::mutex mutex;
  std::condition_variable changed;
  upload work;
  int64_t next_piece = 0;
  int64_t done_pieces = 0;
  std::exception_ptr failure;
  bool stopping = false;

  void serve();
  void send_piece(pinned_buffer& buffer, const upload& now, int64_t piece);
};

upload_ring::upload_ring() : state_(std::make_unique<state>()) {
  check(cudaGetDevice(&state_->device), "cudaGetDevice");
  check(cudaStreamCreateWithFlags(&state_->stream, cudaStreamNonBlocking), "cudaStreamCreate");
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 1U, max_workers);
  for (unsigned i = 0; i < count; ++i) state_->workers.emplace_back([this] { state_->serve(); });
}

upload_ring::~upload_ring() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->changed.notify_all();
  for (auto& worker : state_->workers) worker.join();
  cudaStreamDestroy(state_->stream);
}

void upload_ring::copy(std::byte* target, const tensor_view& source) {
  if (source.elements() == 0) return;
  upload work;
  work.target = target;
  work.source = &source;
  work.row_bytes = source.width() * size_of(source.type);
  const bool rows_fit = work.row_bytes <= piece_bytes;
  tensor_view flat = source;
  if (!rows_fit) {  // one long vector: cut into rows of a piece's size
    flat = make_view(source.data, dtype::u8, source.span_bytes());
    work.row_bytes = 1;
    flat.rank = 2;
    flat.shape = {source.span_bytes(), 1, 1, 1};
    flat.row_stride = 1;
    work.source = &flat;
  }
  const int64_t rows = work.source->rows();
  work.rows_per_piece = std::max<int64_t>(1, piece_bytes / work.row_bytes);
  work.pieces = (rows + work.rows_per_piece - 1) / work.rows_per_piece;

  std::unique_lock lock(state_->mutex);
  state_->work = work;
  state_->next_piece = 0;
  state_->done_pieces = 0;
  state_->failure = nullptr;
  state_->changed.notify_all();
  state_->changed.wait(lock, [&] { return state_->done_pieces == work.pieces; });
  if (state_->failure) std::rethrow_exception(state_->failure);
}

void upload_ring::synchronize() { check(cudaStreamSynchronize(state_->stream), "loading weights"); }

void upload_ring::state::serve() {
  cudaSetDevice(device);
  std::vector<std::unique_ptr<pinned_buffer>> buffers;  // made when first used
  size_t turn = 0;
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return stopping || next_piece < work.pieces; });
    if (stopping) return;
    const upload now = work;
    const int64_t piece = next_piece++;
    lock.unlock();
    std::exception_ptr failed;
    try {
      if (buffers.size() < buffers_per_worker)
        buffers.push_back(std::make_unique<pinned_buffer>());
      send_piece(*buffers[turn++ % buffers.size()], now, piece);
    } catch (...) {
      failed = std::current_exception();
    }
    lock.lock();
    if (failed) failure = failed;
    ++done_pieces;
    if (done_pieces == now.pieces) changed.notify_all();
  }
}

void upload_ring::state::send_piece(pinned_buffer& buffer, const upload& now, int64_t piece) {
  check(cudaEventSynchronize(buffer.sent), "loading weights");
  const int64_t first = piece * now.rows_per_piece;
  const int64_t count = std::min(now.rows_per_piece, now.source->rows() - first);
  gather_rows(buffer.memory, now, first, count);
  check(cudaMemcpyAsync(now.target + first * now.row_bytes, buffer.memory,
                        static_cast<size_t>(count * now.row_bytes), cudaMemcpyHostToDevice, stream),
        "loading weights");
  check(cudaEventRecord(buffer.sent, stream), "cudaEventRecord");
}

}  // namespace troupe::gpu::cuda
