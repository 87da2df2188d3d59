#include "transport/symmetric_arena.hpp"

#include "config/ensure.hpp"
#include "gpu/cuda_backend.hpp"
#include "gpu/error.hpp"
#include "transport/error.hpp"

#include <atomic>
#include <optional>
#include <utility>

namespace troupe::transport {
namespace {

constexpr int64_t page_bytes = 4096;

constexpr int64_t round_up(int64_t bytes, int64_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

// As many as one control page holds with room to spare.
constexpr size_t max_lanes = 16;

/// The group's page on the host. Kernels of every rank read the first word and write the statuses;
/// hosts count the arrivals, all of them together and each its own.
struct control_words {
  alignas(64) std::atomic<uint32_t> abort_word;
  alignas(64) std::atomic<uint32_t> status[gpu::max_ranks][max_lanes];
  alignas(64) std::atomic<uint32_t> arrivals[max_lanes];
  alignas(64) std::atomic<uint32_t> own_arrivals[gpu::max_ranks][max_lanes];
};
static_assert(sizeof(control_words) <= page_bytes);

int64_t slot_bytes(const lane_request& lane, gpu::memory_kind kind) {
  return lane.slot_bytes + (gpu::on_device(kind) ? gpu::lane_word_bytes : 0);
}

int64_t piece_bytes(const lane_request& lane, gpu::memory_kind kind) {
  return round_up(gpu::lane_control_bytes + 2 * slot_bytes(lane, kind), page_bytes);
}

/// Offset of lane `index` in every rank's memory: the lanes in order.
int64_t piece_offset(const std::vector<lane_request>& lanes, size_t index, gpu::memory_kind kind) {
  int64_t offset = 0;
  for (size_t i = 0; i < index; ++i) offset += piece_bytes(lanes[i], kind);
  return offset;
}

gpu::arena make_rank_arena(int32_t rank, const std::vector<lane_request>& lanes,
                           gpu::memory_kind kind) {
  gpu::arena arena(fmt::format("symmetric.{}", rank), kind);
  arena.reserve("symmetric", gpu::dtype::u8, {piece_offset(lanes, lanes.size(), kind)});
  return arena;
}

gpu::arena make_control_arena() {
  gpu::arena arena("symmetric.control", gpu::memory_kind::host_shared);
  arena.reserve("control words", gpu::dtype::u8, {sizeof(control_words)});
  return arena;
}

control_words& words_of(const gpu::arena& arena) {
  return *reinterpret_cast<control_words*>(arena.base());
}

void check_request(int32_t num_ranks, const std::vector<lane_request>& lanes) {
  config::ensure(num_ranks >= 1 && num_ranks <= gpu::max_ranks,
                 "{} ranks share a symmetric arena, expected 1 to {}", num_ranks, gpu::max_ranks);
  config::ensure(lanes.size() <= max_lanes, "{} lanes in a symmetric arena, expected at most {}",
                 lanes.size(), max_lanes);
  for (const auto& lane : lanes)
    config::ensure(lane.slot_bytes > 0 && lane.slot_bytes % 64 == 0,
                   "lane {} asks for slots of {} bytes, expected a multiple of 64", lane.name,
                   lane.slot_bytes);
}

}  // namespace

struct symmetric_memory::state {
  std::vector<lane_request> lanes;
  std::vector<gpu::arena> files;  // [rank]
  gpu::arena control = make_control_arena();
  std::vector<int> descriptors;
};

symmetric_memory::symmetric_memory(int32_t num_ranks, std::vector<lane_request> lanes,
                                   group_placement placement)
    : state_(std::make_unique<state>()) {
  check_request(num_ranks, lanes);
  config::ensure(!gpu::on_device(placement.kind) || std::ssize(placement.devices) == num_ranks,
                 "{} devices for {} ranks", placement.devices.size(), num_ranks);
  state_->lanes = std::move(lanes);
  for (int32_t rank = 0; rank < num_ranks; ++rank) {
    auto& file = state_->files.emplace_back(make_rank_arena(rank, state_->lanes, placement.kind));
    try {
      if (gpu::on_device(placement.kind))
        gpu::use_cuda_device(placement.devices[static_cast<size_t>(rank)]);
      file.seal();
    } catch (const gpu::error& failure) {
      throw error(fmt::format("symmetric memory of rank {}: {}", rank, failure.what()));
    }
    state_->descriptors.push_back(file.file_descriptor());
  }
  state_->control.seal();
  state_->descriptors.push_back(state_->control.file_descriptor());
}
symmetric_memory::~symmetric_memory() = default;
symmetric_memory::symmetric_memory(symmetric_memory&&) noexcept = default;
symmetric_memory& symmetric_memory::operator=(symmetric_memory&&) noexcept = default;

int32_t symmetric_memory::num_ranks() const {
  return static_cast<int32_t>(state_->files.size());
}
const std::vector<lane_request>& symmetric_memory::lanes() const {
  return state_->lanes;
}
const std::vector<int>& symmetric_memory::file_descriptors() const {
  return state_->descriptors;
}
int64_t symmetric_memory::bytes_per_rank() const {
  return state_->files.front().bytes();
}

void symmetric_memory::abort() {
  words_of(state_->control).abort_word.store(1);
}

struct symmetric_arena::state {
  int32_t rank = 0;
  gpu::memory_kind kind = gpu::memory_kind::host_shared;
  std::chrono::milliseconds timeout{0};
  std::vector<lane_request> lanes;
  std::vector<bool> taken;
  gpu::arena control = make_control_arena();
  std::vector<gpu::arena> files;            // [rank]
  std::shared_ptr<void> visible_to_device;  // the control words, while this lives

  void map_all(const std::vector<int>& file_descriptors);
  void show_control();
  void replace_all(const std::vector<int>& file_descriptors);
};

symmetric_arena::symmetric_arena(int32_t rank, const std::vector<int>& file_descriptors,
                                 const std::vector<lane_request>& lanes,
                                 std::chrono::milliseconds timeout, gpu::memory_kind kind)
    : state_(std::make_unique<state>()) {
  const auto num_ranks = static_cast<int32_t>(file_descriptors.size()) - 1;
  check_request(num_ranks, lanes);
  config::ensure(rank >= 0 && rank < num_ranks, "rank {} of {}", rank, num_ranks);
  state_->rank = rank;
  state_->kind = kind;
  state_->timeout = timeout;
  state_->lanes = lanes;
  state_->taken.assign(lanes.size(), false);
  state_->map_all(file_descriptors);
}
symmetric_arena::~symmetric_arena() = default;

void symmetric_arena::state::map_all(const std::vector<int>& file_descriptors) {
  const auto num_ranks = static_cast<int32_t>(file_descriptors.size()) - 1;
  for (int32_t peer = 0; peer < num_ranks; ++peer) {
    auto& file = files.emplace_back(make_rank_arena(peer, lanes, kind));
    try {
      file.seal(file_descriptors[static_cast<size_t>(peer)]);
    } catch (const gpu::error& failure) {
      throw error(fmt::format("rank {} cannot map the symmetric memory of rank {}: {}", rank, peer,
                              failure.what()));
    }
  }
  try {
    control.seal(file_descriptors.back());
    show_control();
  } catch (const gpu::error& failure) {
    throw error(
        fmt::format("rank {} cannot map its group's control words: {}", rank, failure.what()));
  }
}

void symmetric_arena::state::show_control() {
  if (gpu::on_device(kind))
    visible_to_device = gpu::show_to_cuda_devices(control.base(), control.bytes());
}

void symmetric_arena::state::replace_all(const std::vector<int>& file_descriptors) {
  for (size_t peer = 0; peer < files.size(); ++peer) files[peer].replace(file_descriptors[peer]);
  visible_to_device.reset();  // a device knows pages, not the address they lie at
  control.replace(file_descriptors.back());
  show_control();
}

void symmetric_arena::replace_memory(const std::vector<int>& file_descriptors) {
  auto& own = *state_;
  try {
    if (file_descriptors.size() != own.files.size() + 1)
      throw error(fmt::format("{} descriptors, expected {}", file_descriptors.size(),
                              own.files.size() + 1));
    own.replace_all(file_descriptors);
  } catch (const gpu::device_lost&) {
    throw;
  } catch (const std::exception& failure) {
    for (auto& file : own.files) file.retire();
    throw error(
        fmt::format("rank {} cannot take the memory of a new group: {}", own.rank, failure.what()));
  }
}

gpu::lane_view symmetric_arena::take_lane(const std::string& name) {
  for (size_t index = 0; index < state_->lanes.size(); ++index) {
    const auto& request = state_->lanes[index];
    if (request.name != name) continue;
    config::ensure(!state_->taken[index], "lane {} is taken twice", name);
    state_->taken[index] = true;
    auto& words = words_of(state_->control);
    gpu::lane_view lane;
    lane.rank = state_->rank;
    lane.size = static_cast<int32_t>(state_->files.size());
    lane.slot_bytes = slot_bytes(request, state_->kind);
    lane.piece_bytes = piece_bytes(request, state_->kind);
    lane.timeout_ns = std::chrono::nanoseconds(state_->timeout).count();
    lane.abort_word = reinterpret_cast<const uint32_t*>(&words.abort_word);
    lane.status = reinterpret_cast<uint32_t*>(&words.status[state_->rank][index]);
    lane.arrivals = reinterpret_cast<uint32_t*>(&words.arrivals[index]);
    lane.own_arrivals = reinterpret_cast<uint32_t*>(&words.own_arrivals[state_->rank][index]);
    for (size_t peer = 0; peer < state_->files.size(); ++peer)
      lane.pieces[peer] =
          state_->files[peer].base() + piece_offset(state_->lanes, index, state_->kind);
    return lane;
  }
  throw error(
      fmt::format("no lane {} among the {} of this symmetric arena", name, state_->lanes.size()));
}

gpu::lane_status symmetric_arena::take_status(const gpu::lane_view& lane) {
  return static_cast<gpu::lane_status>(std::atomic_ref<uint32_t>(*lane.status).exchange(0));
}

std::vector<gpu::arena_lease> symmetric_arena::leases() const {
  std::vector<gpu::arena_lease> leases;
  for (const auto& file : state_->files) leases.push_back(file.lease());
  return leases;
}

}  // namespace troupe::transport
