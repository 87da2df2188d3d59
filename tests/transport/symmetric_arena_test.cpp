#include "transport/symmetric_arena.hpp"
#include "gpu/cpu/lane.hpp"
#include "gpu/host_meeting.hpp"
#include "transport/error.hpp"

#include <sys/wait.h>
#include <unistd.h>
#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

using namespace troupe;
using namespace std::chrono_literals;

namespace {

constexpr int64_t slot_bytes = 64 * 1024;

transport::symmetric_memory make_memory(int32_t ranks) {
  return {ranks, {{"text", slot_bytes}, {"vision", 256}}};
}

/// What rank `rank` contributes to position `i` of round `round`.
float contribution(int32_t rank, int round, int64_t i) {
  return static_cast<float>((rank + 1) * 1000 + round * 7) + static_cast<float>(i % 13) * 0.125f;
}

/// Rounds of random sizes on one rank's lane; returns the number of values that were not the ranks'
/// own.
int run_rounds(const gpu::lane_view& lane, int rounds) {
  const int32_t rank = lane.rank;
  std::mt19937 sizes(1);  // the same on all ranks
  std::vector<float> part(slot_bytes / 4);
  int wrong = 0;
  for (int round = 0; round < rounds; ++round) {
    const int64_t rows = 1 + static_cast<int64_t>(sizes() % 32);
    const int64_t width = 1 + static_cast<int64_t>(sizes() % 512);
    for (int64_t i = 0; i < rows * width; ++i)
      part[static_cast<size_t>(i)] = contribution(rank, round, i);
    const auto view = gpu::make_view(part.data(), gpu::dtype::f32, rows, width);
    const auto result = gpu::cpu::exchange(lane, view, rows);
    if (result.status != gpu::lane_status::ok) return -1;
    for (int32_t peer = 0; peer < lane.size; ++peer)
      for (int64_t i = 0; i < rows * width; ++i) {
        float value = 0;
        std::memcpy(&value, result.parts[static_cast<size_t>(peer)] + i * 4, 4);
        wrong += value != contribution(peer, round, i);
      }
  }
  return wrong;
}

int run_rank(int32_t rank, const std::vector<int>& files,
             const std::vector<transport::lane_request>& lanes, int rounds) {
  transport::symmetric_arena arena(rank, files, lanes, 10s);
  return run_rounds(arena.take_lane("text"), rounds);
}

/// The ranks of one group after another, as threads; lanes are taken once, as a graph bakes them
/// once.
struct arena_group {
  explicit arena_group(int32_t ranks, std::chrono::milliseconds bound = 10s)
      : memory(make_memory(ranks)), timeout(bound) {
    for (int32_t rank = 0; rank < ranks; ++rank) {
      arenas.emplace_back();
      lanes.emplace_back();
      open(rank);
    }
  }
  void open(int32_t rank) {
    auto& arena = arenas[static_cast<size_t>(rank)];
    arena = std::make_unique<transport::symmetric_arena>(rank, memory.file_descriptors(),
                                                         memory.lanes(), timeout);
    lanes[static_cast<size_t>(rank)] = arena->take_lane("text");
  }
  /// What every rank's rounds said.
  std::vector<int> run(int rounds) {
    std::vector<int> wrong(lanes.size(), -2);
    std::vector<std::thread> threads;
    for (size_t rank = 0; rank < lanes.size(); ++rank)
      threads.emplace_back([&, rank] { wrong[rank] = run_rounds(lanes[rank], rounds); });
    for (auto& thread : threads) thread.join();
    return wrong;
  }

  transport::symmetric_memory memory;
  std::chrono::milliseconds timeout;
  std::vector<std::unique_ptr<transport::symmetric_arena>> arenas;  // [rank]
  std::vector<gpu::lane_view> lanes;                                // [rank]
};

bool all_zero(const std::byte* first, int64_t bytes) {
  return std::all_of(first, first + bytes, [](std::byte b) { return b == std::byte{0}; });
}

}  // namespace

BOOST_AUTO_TEST_SUITE(symmetric_arena_test)

BOOST_AUTO_TEST_CASE(ranks_as_threads_see_each_others_parts) {
  for (const int32_t ranks : {1, 2, 4}) {
    const auto memory = make_memory(ranks);
    std::vector<int> wrong(static_cast<size_t>(ranks), -2);
    std::vector<std::thread> threads;
    for (int32_t rank = 0; rank < ranks; ++rank)
      threads.emplace_back([&, rank] {
        wrong[static_cast<size_t>(rank)] =
            run_rank(rank, memory.file_descriptors(), memory.lanes(), 2000);
      });
    for (auto& thread : threads) thread.join();
    for (const int count : wrong) BOOST_TEST(count == 0);
  }
}

BOOST_AUTO_TEST_CASE(ranks_as_processes_see_each_others_parts) {
  const auto memory = make_memory(2);
  const pid_t child = fork();
  if (child == 0) _exit(run_rank(1, memory.file_descriptors(), memory.lanes(), 2000) == 0 ? 0 : 1);
  BOOST_TEST(run_rank(0, memory.file_descriptors(), memory.lanes(), 2000) == 0);
  int status = 0;
  waitpid(child, &status, 0);
  BOOST_TEST(WEXITSTATUS(status) == 0);
}

BOOST_AUTO_TEST_CASE(a_peer_that_never_comes_is_reported_within_the_bound) {
  const auto memory = make_memory(2);
  transport::symmetric_arena arena(0, memory.file_descriptors(), memory.lanes(), 50ms);
  const gpu::lane_view lane = arena.take_lane("text");
  float value = 1;
  const auto view = gpu::make_view(&value, gpu::dtype::f32, 1, 1);

  const auto begin = std::chrono::steady_clock::now();
  BOOST_TEST((gpu::cpu::exchange(lane, view, 1).status == gpu::lane_status::peer_late));
  BOOST_TEST((std::chrono::steady_clock::now() - begin >= 50ms));
  // The rest of a graph does not wait again, and the status is taken once.
  BOOST_TEST((gpu::cpu::exchange(lane, view, 1).status == gpu::lane_status::peer_late));
  BOOST_TEST((arena.take_status(lane) == gpu::lane_status::peer_late));
  BOOST_TEST((arena.take_status(lane) == gpu::lane_status::ok));
}

BOOST_AUTO_TEST_CASE(an_abort_ends_a_wait_long_before_its_bound) {
  auto memory = make_memory(2);
  transport::symmetric_arena arena(0, memory.file_descriptors(), memory.lanes(), 24h);
  const gpu::lane_view lane = arena.take_lane("text");
  gpu::cpu::lane_round round;
  std::thread waiter([&] {
    float value = 1;
    round = gpu::cpu::exchange(lane, gpu::make_view(&value, gpu::dtype::f32, 1, 1), 1);
  });
  memory.abort();
  waiter.join();
  BOOST_TEST((round.status == gpu::lane_status::aborted));
}

BOOST_AUTO_TEST_CASE(wrong_files_and_names_are_refused) {
  const auto memory = make_memory(2);
  BOOST_CHECK_THROW(transport::symmetric_arena(0, memory.file_descriptors(), {{"text", 64}}, 1s),
                    transport::error);
  transport::symmetric_arena arena(0, memory.file_descriptors(), memory.lanes(), 1s);
  BOOST_CHECK_THROW(arena.take_lane("audio"), transport::error);
}

/// Rank 0 is lost with an odd number of rounds done; the others stay, with the lanes they have.
BOOST_AUTO_TEST_CASE(survivors_meet_a_new_rank_in_new_memory_at_the_old_addresses) {
  for (const int32_t ranks : {2, 4}) {
    arena_group group(ranks);
    for (const int count : group.run(7)) BOOST_TEST(count == 0);
    for (int32_t round = 0; round < 3; ++round) {
      group.memory.abort();
      float value = 1;
      BOOST_TEST(
          (gpu::cpu::exchange(group.lanes[1], gpu::make_view(&value, gpu::dtype::f32, 1, 1), 1)
               .status == gpu::lane_status::aborted));
      group.memory = make_memory(ranks);
      for (int32_t rank = 1; rank < ranks; ++rank) {
        const auto& lane = group.lanes[static_cast<size_t>(rank)];
        const auto before = group.arenas[static_cast<size_t>(rank)]->leases();
        group.arenas[static_cast<size_t>(rank)]->replace_memory(group.memory.file_descriptors());
        for (const auto* piece : {lane.pieces[0], lane.pieces[static_cast<size_t>(rank)]})
          BOOST_TEST(all_zero(piece, lane.piece_bytes));  // nothing of the old group
        BOOST_TEST(*lane.status == 0U);
        BOOST_TEST(*lane.abort_word == 0U);
        for (const auto& lease : before) BOOST_TEST(lease.current());
      }
      group.open(0);
      for (const int count : group.run(501)) BOOST_TEST(count == 0);
    }
  }
}

BOOST_AUTO_TEST_CASE(a_rank_that_keeps_the_old_memory_meets_nobody_of_the_new_group) {
  arena_group group(2, 50ms);
  const auto old_memory = std::move(group.memory);
  group.memory = make_memory(2);
  group.arenas[0]->replace_memory(group.memory.file_descriptors());
  float value = 1;
  const auto view = gpu::make_view(&value, gpu::dtype::f32, 1, 1);
  BOOST_TEST((gpu::cpu::exchange(group.lanes[1], view, 1).status == gpu::lane_status::peer_late));
  BOOST_TEST((gpu::cpu::exchange(group.lanes[0], view, 1).status == gpu::lane_status::peer_late));
  BOOST_TEST(all_zero(group.lanes[0].pieces[1], group.lanes[0].piece_bytes));
}

BOOST_AUTO_TEST_CASE(hosts_meet_anew_in_new_memory) {
  arena_group group(2);
  const auto meet = [&](int32_t rank, int times) {
    for (int i = 0; i < times; ++i) gpu::meet_hosts(group.lanes[static_cast<size_t>(rank)]);
  };
  std::thread peer(meet, 1, 5);
  meet(0, 5);
  peer.join();
  group.memory.abort();
  meet(0, 1);  // alone
  group.memory = make_memory(2);
  for (auto& arena : group.arenas) arena->replace_memory(group.memory.file_descriptors());
  std::thread again(meet, 1, 5);
  meet(0, 5);
  again.join();
  BOOST_TEST(*group.lanes[0].arrivals == 10U);
}

BOOST_AUTO_TEST_CASE(memory_that_does_not_fit_is_refused_and_retires_the_arena) {
  const transport::symmetric_memory other(2, {{"text", 2 * slot_bytes}, {"vision", 256}});
  const auto refuse = [](const std::vector<int>& files, const std::string& why) {
    arena_group group(2);
    const auto leases = group.arenas[1]->leases();
    BOOST_CHECK_EXCEPTION(group.arenas[1]->replace_memory(files), transport::error,
                          [&](const transport::error& error) {
                            const std::string text = error.what();
                            BOOST_TEST_INFO(text);
                            return text.find("rank 1 cannot take the memory of a new group") ==
                                       0U &&
                                   text.find(why) != std::string::npos;
                          });
    for (const auto& lease : leases) BOOST_TEST(!lease.current());
    BOOST_CHECK_THROW(group.arenas[1]->replace_memory(group.memory.file_descriptors()),
                      transport::error);  // there is no way back
  };
  refuse(other.file_descriptors(), "its file has");
  refuse({-1, -1, -1}, "descriptor -1 is not usable");
  refuse({0, 1}, "2 descriptors, expected 3");
}

BOOST_AUTO_TEST_CASE(lanes_do_not_overlap) {
  const auto memory = make_memory(2);
  transport::symmetric_arena arena(0, memory.file_descriptors(), memory.lanes(), 1s);
  const auto text = arena.take_lane("text");
  const auto vision = arena.take_lane("vision");
  BOOST_TEST(text.pieces[0] + text.piece_bytes <= vision.pieces[0]);
  BOOST_TEST(arena.leases().front().contains(vision.pieces[0], vision.piece_bytes));
}

BOOST_AUTO_TEST_SUITE_END()
