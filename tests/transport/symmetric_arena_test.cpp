#include "gpu/cpu/lane.hpp"
#include "transport/error.hpp"
#include "transport/symmetric_arena.hpp"

#include <boost/test/unit_test.hpp>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <random>
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

/// Rounds of random sizes as one rank; returns the number of values that were not the ranks' own.
int run_rank(int32_t rank, const std::vector<int>& files,
             const std::vector<transport::lane_request>& lanes, int rounds) {
  transport::symmetric_arena arena(rank, files, lanes, 10min);
  const gpu::lane_view lane = arena.take_lane("text");
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

BOOST_AUTO_TEST_CASE(lanes_do_not_overlap) {
  const auto memory = make_memory(2);
  transport::symmetric_arena arena(0, memory.file_descriptors(), memory.lanes(), 1s);
  const auto text = arena.take_lane("text");
  const auto vision = arena.take_lane("vision");
  BOOST_TEST(text.pieces[0] + text.piece_bytes <= vision.pieces[0]);
  BOOST_TEST(arena.leases().front().contains(vision.pieces[0], vision.piece_bytes));
}

BOOST_AUTO_TEST_SUITE_END()
