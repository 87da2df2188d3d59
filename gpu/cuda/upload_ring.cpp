#include "gpu/cuda/upload_ring.hpp"

#include "config/ensure.hpp"
#include "gpu/arena.hpp"
#include "gpu/cuda/event.hpp"
#include "gpu/cuda/kernels/transpose.hpp"
#include "gpu/cuda/status.hpp"
#include "gpu/cuda/stream.hpp"

#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace troupe::gpu::cuda {
namespace {

// A piece is long against the start of a copy, yet still in the core's cache when the copy engine
// takes it. Pinned buffers of one huge page each are quick to make.
constexpr int64_t piece_bytes = int64_t{2} << 20;
constexpr int32_t buffers_per_worker = 2;
// One core fills about 5 GB/s, a link of the device takes ten times that.
constexpr unsigned max_workers = 16;
// What may wait: enough to keep all workers busy, and little against what converted copies would
// take.
constexpr int64_t waiting_bytes_max = int64_t{256} << 20;

/// Pinned memory, on huge pages where there are some.
class pinned_block {
 public:
  explicit pinned_block(int64_t bytes) : bytes_(static_cast<size_t>(bytes)) {
    // Huge pages begin at multiples of their size.
    reserved_ =
        ::mmap(nullptr, 2 * bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    config::ensure(reserved_ != MAP_FAILED, "no address space for {} bytes", 2 * bytes);
    const auto begin = reinterpret_cast<uintptr_t>(reserved_);
    data_ = reinterpret_cast<std::byte*>((begin + bytes_ - 1) / bytes_ * bytes_);
    ::madvise(data_, bytes_, MADV_HUGEPAGE);
    std::memset(data_, 0, bytes_);  // in memory before it is pinned
    const cudaError_t status = cudaHostRegister(data_, bytes_, cudaHostRegisterDefault);
    if (status != cudaSuccess) ::munmap(reserved_, 2 * bytes_);
    check(status, "cudaHostRegister");
  }
  pinned_block(const pinned_block&) = delete;
  pinned_block& operator=(const pinned_block&) = delete;
  ~pinned_block() {
    cudaHostUnregister(data_);
    ::munmap(reserved_, 2 * bytes_);
  }
  std::byte* data() const { return data_; }

 private:
  size_t bytes_;
  void* reserved_;
  std::byte* data_;
};

/// A pinned buffer and the event that says when the device has taken what is in it.
struct send_buffer {
  pinned_block memory{piece_bytes};
  event taken{event_timing::off};
};

/// One part of a matrix under way, as equal lines of memory: rows, or columns of an input-major
/// part. A part without gaps is cut anywhere, at single bytes if need be.
struct transfer {
  tensor_view target;  // [rows, width] of this part
  const std::byte* data = nullptr;
  int64_t line_bytes = 0;
  int64_t stride_bytes = 0;
  int64_t lines = 0;
  int64_t lines_per_piece = 0;
  bool transposed = false;
  std::shared_ptr<weight_bytes> source;
  int64_t next_line = 0;

  bool has_gaps() const { return stride_bytes != line_bytes; }
};

transfer make_transfer(const tensor_view& target, const matrix_part& part,
                       const std::shared_ptr<weight_bytes>& source) {
  const int64_t size = size_of(target.type);
  transfer made;
  made.target = target;
  made.data = part.data;
  made.source = source;
  made.transposed = part.transposed();
  if (part.transposed()) {
    made.line_bytes = part.rows * size;
    made.stride_bytes = part.column_stride * size;
    made.lines = target.width();
  } else if (part.gapless(target.width())) {
    made.line_bytes = made.stride_bytes = 1;
    made.lines = target.elements() * size;
  } else {
    made.line_bytes = target.width() * size;
    made.stride_bytes = part.row_stride * size;
    made.lines = part.rows;
  }
  made.lines_per_piece = piece_bytes / made.line_bytes;
  config::ensure(made.lines_per_piece > 0, "lines of {} bytes in pieces of {}", made.line_bytes,
                 piece_bytes);
  return made;
}

/// Brings lines into a pinned buffer, one after another.
void gather_lines(std::byte* buffer, const transfer& work, int64_t first, int64_t count) {
  const std::byte* from = work.data + first * work.stride_bytes;
  const int64_t bytes = (count - 1) * work.stride_bytes + work.line_bytes;
  if (!work.has_gaps()) {
    if (work.source) return work.source->read(from, bytes, buffer);
    return static_cast<void>(std::memcpy(buffer, from, static_cast<size_t>(bytes)));
  }
  if (work.source) work.source->fetch(from, bytes);
  for (int64_t line = 0; line < count; ++line)
    std::memcpy(buffer + line * work.line_bytes, from + line * work.stride_bytes,
                static_cast<size_t>(work.line_bytes));
}

}  // namespace

/// Threads, buffers and streams of one time of loading.
class upload_ring::session {
 public:
  session();
  ~session();
  session(const session&) = delete;
  session& operator=(const session&) = delete;

  /// Waits while much is waiting.
  void add(std::vector<transfer> parts, bool until_read);
  void finish();

 private:
  /// Buffers and stream of one thread, made when they are first needed.
  struct worker_state {
    stream work{false};
    std::array<std::unique_ptr<send_buffer>, buffers_per_worker> buffers;
    arena turning{"upload_staging", memory_kind::device};  // sealed when first needed
    std::array<tensor_view, buffers_per_worker> turned;
    size_t turn = 0;
  };
  /// Lines [first, first + count) of a transfer.
  struct piece {
    std::shared_ptr<const transfer> work;
    int64_t first = 0, count = 0;

    int64_t bytes() const { return count * work->line_bytes; }
  };

  void serve();
  piece take_piece();  // with the lock held; there is one
  void send(worker_state& worker, const piece& next) const;
  void send_turned(worker_state& worker, const piece& next, size_t buffer) const;

  int device_ = 0;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable work_came_, work_went_;
  std::deque<std::shared_ptr<transfer>> waiting_;
  int64_t unread_bytes_ = 0;  // not in a pinned buffer yet
  std::exception_ptr failure_;
  bool ending_ = false;
};

upload_ring::session::session() {
  check(cudaGetDevice(&device_), "cudaGetDevice");
  const unsigned count = std::clamp(std::thread::hardware_concurrency(), 1U, max_workers);
  for (unsigned i = 0; i < count; ++i) threads_.emplace_back([this] { serve(); });
}

upload_ring::session::~session() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    waiting_.clear();
  }
  work_came_.notify_all();
  for (auto& thread : threads_)
    if (thread.joinable()) thread.join();
}

void upload_ring::session::add(std::vector<transfer> parts, bool until_read) {
  std::unique_lock lock(mutex_);
  work_went_.wait(lock, [&] { return unread_bytes_ < waiting_bytes_max; });
  for (auto& part : parts) {
    unread_bytes_ += part.lines * part.line_bytes;
    waiting_.push_back(std::make_shared<transfer>(std::move(part)));
  }
  work_came_.notify_all();
  if (until_read) work_went_.wait(lock, [&] { return unread_bytes_ == 0; });
}

void upload_ring::session::finish() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  work_came_.notify_all();
  for (auto& thread : threads_) thread.join();
  if (failure_) std::rethrow_exception(failure_);
}

upload_ring::session::piece upload_ring::session::take_piece() {
  transfer& work = *waiting_.front();
  const int64_t count = std::min(work.lines_per_piece, work.lines - work.next_line);
  piece next{waiting_.front(), work.next_line, count};
  work.next_line += count;
  if (work.next_line == work.lines) waiting_.pop_front();
  return next;
}

void upload_ring::session::serve() {
  std::unique_ptr<worker_state> worker;
  std::unique_lock lock(mutex_);
  for (;;) {
    work_came_.wait(lock, [&] { return ending_ || !waiting_.empty(); });
    if (waiting_.empty()) break;
    piece next = take_piece();
    const bool wanted = !failure_;
    lock.unlock();
    std::exception_ptr failed;
    try {
      if (wanted) {
        check(cudaSetDevice(device_), "cudaSetDevice");
        if (!worker) worker = std::make_unique<worker_state>();
        send(*worker, next);
      }
    } catch (...) {
      failed = std::current_exception();
    }
    const int64_t read_bytes = next.bytes();
    next = {};  // the source may go
    lock.lock();
    if (failed && !failure_) failure_ = failed;
    unread_bytes_ -= read_bytes;
    work_went_.notify_all();
  }
  lock.unlock();
  if (!worker) return;
  const cudaError_t status = cudaStreamSynchronize(worker->work.get());
  worker.reset();
  lock.lock();
  if (status == cudaSuccess || failure_) return;
  try {
    check(status, "loading weights");
  } catch (...) {
    failure_ = std::current_exception();
  }
}

void upload_ring::session::send(worker_state& worker, const piece& next) const {
  const transfer& work = *next.work;
  const size_t turn = worker.turn++ % buffers_per_worker;
  if (!worker.buffers[turn]) worker.buffers[turn] = std::make_unique<send_buffer>();
  send_buffer& buffer = *worker.buffers[turn];
  buffer.taken.wait("loading weights");
  gather_lines(buffer.memory.data(), work, next.first, next.count);
  if (work.transposed)
    send_turned(worker, next, turn);
  else
    check(cudaMemcpyAsync(work.target.data + next.first * work.line_bytes, buffer.memory.data(),
                          static_cast<size_t>(next.bytes()), cudaMemcpyHostToDevice,
                          worker.work.get()),
          "loading weights");
  buffer.taken.record(worker.work.get());
}

void upload_ring::session::send_turned(worker_state& worker, const piece& next,
                                       size_t buffer) const {
  if (worker.turned[buffer].data == nullptr) {
    for (int32_t i = 0; i < buffers_per_worker; ++i)
      worker.turning.reserve("pieces", dtype::u8, {piece_bytes});
    worker.turning.seal();
    for (int32_t i = 0; i < buffers_per_worker; ++i)
      worker.turned[static_cast<size_t>(i)] = worker.turning.view(i);
  }
  std::byte* lines = worker.turned[buffer].data;
  check(
      cudaMemcpyAsync(lines, worker.buffers[buffer]->memory.data(),
                      static_cast<size_t>(next.bytes()), cudaMemcpyHostToDevice, worker.work.get()),
      "loading weights");
  launch_context on;
  on.stream = worker.work.get();
  on.programmatic = false;  // it follows a copy
  launch_transpose({next.work->target.slice_columns(next.first, next.count), lines}, on);
}

upload_ring::upload_ring() = default;
upload_ring::~upload_ring() = default;

void upload_ring::copy(std::byte* target, const host_matrix& source) {
  if (source.bytes() == 0) return;
  if (!session_) session_ = std::make_unique<session>();
  if (source.source()) source.source()->announce(source.bytes());
  std::vector<transfer> transfers;
  tensor_view part_target = source.view_at(target);
  for (const auto& part : source.parts()) {
    if (source.rank() == 2) part_target.shape[0] = part.rows;
    transfers.push_back(make_transfer(part_target, part, source.source()));
    part_target.data += part.rows * source.width() * size_of(source.type());
  }
  session_->add(std::move(transfers), source.source() == nullptr);
}

void upload_ring::synchronize() {
  if (!session_) return;
  const std::unique_ptr<session> ended = std::move(session_);
  ended->finish();
}

}  // namespace troupe::gpu::cuda
