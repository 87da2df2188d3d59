#include "transport/symmetric_arena.hpp"

#include "config/ensure.hpp"
#include "gpu/cpu/lane.hpp"
#include "gpu/error.hpp"
#include "transport/error.hpp"

#include <atomic>
#include <optional>
#include <utility>

namespace troupe::transport {
namespace {

constexpr int64_t page_bytes = 4096;

constexpr int64_t round_up(int64_t bytes, int64_t unit) { return (bytes + unit - 1) / unit * unit; }

/// First page of each rank's file.
struct file_head {
  std::atomic<uint32_t> abort_word;
};

int64_t piece_bytes(const lane_request& lane) {
  return round_up(gpu::lane_control_bytes + 2 * lane.slot_bytes, page_bytes);
}

/// Offset of lane `index` in every rank's file: the head, then the lanes in order.
int64_t piece_offset(const std::vector<lane_request>& lanes, size_t index) {
  int64_t offset = page_bytes;
  for (size_t i = 0; i < index; ++i) offset += piece_bytes(lanes[i]);
  return offset;
}

gpu::arena make_rank_arena(int32_t rank, const std::vector<lane_request>& lanes) {
  gpu::arena arena(fmt::format("symmetric.{}", rank), gpu::memory_kind::host_shared);
  arena.reserve("symmetric", gpu::dtype::u8, {piece_offset(lanes, lanes.size())});
  return arena;
}

file_head& head_of(const gpu::arena& arena) {
  return *reinterpret_cast<file_head*>(arena.base());
}

void check_request(int32_t num_ranks, const std::vector<lane_request>& lanes) {
  config::ensure(num_ranks >= 1 && num_ranks <= gpu::max_ranks,
                 "{} ranks share a symmetric arena, expected 1 to {}", num_ranks, gpu::max_ranks);
  for (const auto& lane : lanes)
    config::ensure(lane.slot_bytes > 0 && lane.slot_bytes % 64 == 0,
                   "lane {} asks for slots of {} bytes, expected a multiple of 64", lane.name,
                   lane.slot_bytes);
}

}  // namespace

struct symmetric_memory::state {
  std::vector<lane_request> lanes;
  std::vector<gpu::arena> files;
  std::vector<int> descriptors;
};

symmetric_memory::symmetric_memory(int32_t num_ranks, std::vector<lane_request> lanes)
    : state_(std::make_unique<state>()) {
  check_request(num_ranks, lanes);
  state_->lanes = std::move(lanes);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    auto& file = state_->files.emplace_back(make_rank_arena(rank, state_->lanes));
    try {
      file.seal();
    } catch (const gpu::error& failure) {
      throw error(fmt::format("symmetric memory of rank {}: {}", rank, failure.what()));
    }
    state_->descriptors.push_back(file.file_descriptor());
  }
}
symmetric_memory::~symmetric_memory() = default;
symmetric_memory::symmetric_memory(symmetric_memory&&) noexcept = default;
symmetric_memory& symmetric_memory::operator=(symmetric_memory&&) noexcept = default;

int32_t symmetric_memory::num_ranks() const { return static_cast<int32_t>(state_->files.size()); }
const std::vector<lane_request>& symmetric_memory::lanes() const { return state_->lanes; }
const std::vector<int>& symmetric_memory::file_descriptors() const { return state_->descriptors; }
int64_t symmetric_memory::bytes_per_rank() const { return state_->files.front().bytes(); }

void symmetric_memory::abort() {
  for (const auto& file : state_->files) head_of(file).abort_word.store(1);
}

struct symmetric_arena::state {
  int32_t rank = 0;
  std::chrono::milliseconds timeout{0};
  std::vector<lane_request> lanes;
  std::vector<bool> taken;
  std::vector<gpu::arena> files;  // [rank]
};

symmetric_arena::symmetric_arena(int32_t rank, const std::vector<int>& file_descriptors,
                                 const std::vector<lane_request>& lanes,
                                 std::chrono::milliseconds timeout)
    : state_(std::make_unique<state>()) {
  const auto num_ranks = static_cast<int32_t>(file_descriptors.size());
  check_request(num_ranks, lanes);
  config::ensure(rank >= 0 && rank < num_ranks, "rank {} of {}", rank, num_ranks);
  state_->rank = rank;
  state_->timeout = timeout;
  state_->lanes = lanes;
  state_->taken.assign(lanes.size(), false);
  for (int32_t peer = 0; peer < num_ranks; ++peer) {
    auto& file = state_->files.emplace_back(make_rank_arena(peer, lanes));
    try {
      file.seal(file_descriptors[static_cast<size_t>(peer)]);
    } catch (const gpu::error& failure) {
      throw error(fmt::format("rank {} cannot map the symmetric memory of rank {}: {}", rank, peer,
                              failure.what()));
    }
  }
}
symmetric_arena::~symmetric_arena() = default;

gpu::lane_view symmetric_arena::take_lane(const std::string& name) {
  for (size_t index = 0; index < state_->lanes.size(); ++index) {
    const auto& request = state_->lanes[index];
    if (request.name != name) continue;
    config::ensure(!state_->taken[index], "lane {} is taken twice", name);
    state_->taken[index] = true;
    gpu::lane_view lane;
    lane.rank = state_->rank;
    lane.size = static_cast<int32_t>(state_->files.size());
    lane.slot_bytes = request.slot_bytes;
    lane.piece_bytes = piece_bytes(request);
    lane.timeout_ns = std::chrono::nanoseconds(state_->timeout).count();
    lane.abort_word = reinterpret_cast<const uint32_t*>(
        &head_of(state_->files[static_cast<size_t>(state_->rank)]).abort_word);
    for (size_t peer = 0; peer < state_->files.size(); ++peer)
      lane.pieces[peer] = state_->files[peer].base() + piece_offset(state_->lanes, index);
    return lane;
  }
  throw error(fmt::format("no lane {} among the {} of this symmetric arena", name,
                          state_->lanes.size()));
}

gpu::lane_status symmetric_arena::take_status(const gpu::lane_view& lane) {
  auto& own = gpu::cpu::control_of(lane.pieces[static_cast<size_t>(lane.rank)]);
  return static_cast<gpu::lane_status>(own.status.exchange(0));
}

std::vector<gpu::arena_lease> symmetric_arena::leases() const {
  std::vector<gpu::arena_lease> leases;
  for (const auto& file : state_->files) leases.push_back(file.lease());
  return leases;
}

}  // namespace troupe::transport
