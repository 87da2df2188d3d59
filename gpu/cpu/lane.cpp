#include "gpu/cpu/lane.hpp"

#include "config/ensure.hpp"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <ctime>

namespace troupe::gpu::cpu {
namespace {

using clock = std::chrono::steady_clock;

// A round trip between two running ranks is a few hundred nanoseconds; past this many polls the peer
// is not running, and the core is better given to it.
constexpr int polls_before_sleep = 400;
// Upper bound on how late an abort is noticed.
constexpr long sleep_ns_max = 1'000'000;

uint32_t* word_of(std::atomic<uint32_t>& value) { return reinterpret_cast<uint32_t*>(&value); }

void sleep_while_equal(std::atomic<uint32_t>& value, uint32_t seen) {
  const timespec bound{0, sleep_ns_max};
  // Not FUTEX_PRIVATE: the word may be shared with another process.
  syscall(SYS_futex, word_of(value), FUTEX_WAIT, seen, &bound, nullptr, 0);
}

void wake_all(std::atomic<uint32_t>& value) {
  syscall(SYS_futex, word_of(value), FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

bool reached(uint32_t ready, uint32_t epoch) { return static_cast<int32_t>(ready - epoch) >= 0; }

bool aborted(const lane_view& lane) {
  return lane.abort_word != nullptr &&
         std::atomic_ref<const uint32_t>(*lane.abort_word).load(std::memory_order_relaxed) != 0;
}

lane_status wait_for(const lane_view& lane, lane_control& peer, uint32_t epoch,
                     clock::time_point deadline) {
  for (int poll = 0; poll < polls_before_sleep; ++poll) {
    if (reached(peer.ready.load(std::memory_order_acquire), epoch)) return lane_status::ok;
    __builtin_ia32_pause();
  }
  for (;;) {
    peer.waiters.fetch_add(1);
    const uint32_t seen = peer.ready.load();
    if (!reached(seen, epoch)) sleep_while_equal(peer.ready, seen);
    peer.waiters.fetch_sub(1);
    if (reached(peer.ready.load(std::memory_order_acquire), epoch)) return lane_status::ok;
    if (aborted(lane)) return lane_status::aborted;
    if (clock::now() >= deadline) return lane_status::peer_late;
  }
}

void copy_rows(std::byte* slot, const tensor_view& part, int64_t rows) {
  const int64_t row_bytes = part.width() * size_of(part.type);
  if (part.row_stride == part.width()) {
    std::memcpy(slot, part.data, static_cast<size_t>(rows * row_bytes));
    return;
  }
  for (int64_t row = 0; row < rows; ++row)
    std::memcpy(slot + row * row_bytes, part.data + row * part.row_stride * size_of(part.type),
                static_cast<size_t>(row_bytes));
}

void publish(lane_control& own, uint32_t epoch) {
  own.ready.store(epoch);
  if (own.waiters.load() != 0) wake_all(own.ready);
}

}  // namespace

lane_round exchange(const lane_view& lane, const tensor_view& part, int64_t rows) {
  lane_round round;
  if (lane.size == 1) {
    round.parts[0] = part.data;
    return round;
  }
  const int64_t bytes = rows * part.width() * size_of(part.type);
  config::ensure(bytes <= lane.slot_bytes, "a round of {} bytes does not fit the lane's {}", bytes,
                 lane.slot_bytes);

  auto& own = control_of(lane.pieces[static_cast<size_t>(lane.rank)]);
  const uint32_t epoch = own.epoch.load(std::memory_order_relaxed) + 1;
  own.epoch.store(epoch, std::memory_order_relaxed);
  const int64_t slot_offset = lane_control_bytes + (epoch & 1) * lane.slot_bytes;
  for (int32_t rank = 0; rank < lane.size; ++rank)
    round.parts[static_cast<size_t>(rank)] = lane.pieces[static_cast<size_t>(rank)] + slot_offset;

  const std::atomic_ref<uint32_t> status(*lane.status);
  round.status = static_cast<lane_status>(status.load(std::memory_order_relaxed));
  if (round.status != lane_status::ok) return round;

  copy_rows(lane.pieces[static_cast<size_t>(lane.rank)] + slot_offset, part, rows);
  publish(own, epoch);
  const auto deadline = clock::now() + std::chrono::nanoseconds(lane.timeout_ns);
  for (int32_t rank = 0; rank < lane.size && round.status == lane_status::ok; ++rank)
    if (rank != lane.rank)
      round.status =
          wait_for(lane, control_of(lane.pieces[static_cast<size_t>(rank)]), epoch, deadline);
  status.store(static_cast<uint32_t>(round.status), std::memory_order_relaxed);
  return round;
}

}  // namespace troupe::gpu::cpu
