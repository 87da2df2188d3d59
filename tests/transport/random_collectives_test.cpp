#include "transport/random_collectives.hpp"

#include "gpu/cuda_backend.hpp"
#include "support/runner_group.hpp"
#include "transport/symmetric_arena.hpp"

#include <fmt/format.h>
#include <unistd.h>
#include <boost/test/unit_test.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <vector>

using namespace troupe;
using testing::collective_outcome;
using testing::collective_task;

namespace {

/// How many collectives a case runs; TROUPE_TEST_COLLECTIVES says another number.
int64_t collectives(int64_t on_cpu, int64_t on_device) {
  if (const char* wanted = std::getenv("TROUPE_TEST_COLLECTIVES")) return std::atoll(wanted);
  return testing::tested_device() == gpu::device_kind::cpu ? on_cpu : on_device;
}

collective_task make_task(int32_t ranks, int64_t count) {
  collective_task task;
  task.device = testing::tested_device();
  task.ranks = ranks;
  task.collectives = count;
  task.seed = std::random_device{}();
  return task;
}

/// Every rank in order, when all have ended.
void expect_right(const collective_task& task, const std::vector<collective_outcome>& outcomes,
                  std::chrono::steady_clock::time_point begin) {
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::cout << fmt::format("{} ranks, seed {}: {} collectives in {:.1f} s\n", task.ranks, task.seed,
                           outcomes.front().collectives, took.count());
  for (const auto& seen : outcomes) {
    BOOST_TEST(seen.wrong_rows == 0, seen.wrong_rows << " wrong rows, first: " << seen.first_wrong);
    BOOST_TEST(seen.collectives >= task.collectives);
    BOOST_TEST(seen.digest == outcomes.front().digest, "ranks normed to other bits");
  }
}

void run_as_threads(const collective_task& task) {
  const auto begin = std::chrono::steady_clock::now();
  const transport::symmetric_memory memory(task.ranks, testing::collective_lanes(task),
                                           testing::placement_of(task));
  std::vector<std::future<collective_outcome>> ranks;
  for (int32_t rank = 0; rank < task.ranks; ++rank)
    ranks.push_back(std::async(std::launch::async, [&task, &memory, rank] {
      return testing::run_random_collectives(task, rank, memory.file_descriptors());
    }));
  std::vector<collective_outcome> outcomes;
  for (auto& rank : ranks) outcomes.push_back(rank.get());
  expect_right(task, outcomes, begin);
}

/// A rank in a process of its own, which prints what it saw.
class rank_process {
 public:
  rank_process(const collective_task& task, int32_t rank, const std::vector<int>& descriptors) {
    std::string command = fmt::format("exec {} {} {} {} {} {}", TROUPE_COLLECTIVE_RANK,
                                      task.device == gpu::device_kind::cuda ? "cuda" : "cpu",
                                      task.ranks, task.collectives, task.seed, rank);
    for (const int descriptor : descriptors) command += fmt::format(" {}", descriptor);
    output_.reset(popen(command.c_str(), "r"));
    BOOST_REQUIRE(output_ != nullptr);
  }

  collective_outcome wait() {
    std::string text;
    for (int c = std::fgetc(output_.get()); c != EOF; c = std::fgetc(output_.get()))
      text += static_cast<char>(c);
    collective_outcome seen;
    int read = 0;
    unsigned long long digest = 0;
    long long count = 0, wrong = 0;
    BOOST_REQUIRE_MESSAGE(
        std::sscanf(text.c_str(), "%lld %lld %llu %n", &count, &wrong, &digest, &read) == 3,
        "a rank printed \"" << text << '"');
    seen.collectives = count;
    seen.wrong_rows = wrong;
    seen.digest = digest;
    seen.first_wrong = text.substr(static_cast<size_t>(read));
    return seen;
  }

 private:
  struct close_pipe {
    void operator()(std::FILE* pipe) const { pclose(pipe); }
  };
  std::unique_ptr<std::FILE, close_pipe> output_;
};

void run_as_processes(const collective_task& task) {
  const auto begin = std::chrono::steady_clock::now();
  const transport::symmetric_memory memory(task.ranks, testing::collective_lanes(task),
                                           testing::placement_of(task));
  std::vector<int> inherited;  // the memory's own descriptors close in programs that are started
  for (const int descriptor : memory.file_descriptors()) inherited.push_back(dup(descriptor));
  std::vector<rank_process> ranks;
  for (int32_t rank = 0; rank < task.ranks; ++rank) ranks.emplace_back(task, rank, inherited);
  std::vector<collective_outcome> outcomes;
  for (auto& rank : ranks) outcomes.push_back(rank.wait());
  for (const int descriptor : inherited) close(descriptor);
  expect_right(task, outcomes, begin);
}

/// Processes that share a device run in turns of milliseconds, and each wait takes some of them.
int64_t collectives_of_processes(int32_t ranks) {
  const bool own_devices = std::ssize(gpu::cuda_devices()) >= ranks;
  return collectives(2000, own_devices ? 1'000'000 : 300);
}

}  // namespace

BOOST_AUTO_TEST_SUITE(random_collectives_test)

BOOST_AUTO_TEST_CASE(two_threads) {
  run_as_threads(make_task(2, collectives(10'000, 1'000'000)));
}

BOOST_AUTO_TEST_CASE(four_threads) {
  run_as_threads(make_task(4, collectives(4'000, 100'000)));
}

BOOST_AUTO_TEST_CASE(two_processes) {
  run_as_processes(make_task(2, collectives_of_processes(2)));
}

BOOST_AUTO_TEST_CASE(four_processes) {
  run_as_processes(make_task(4, collectives_of_processes(4)));
}

BOOST_AUTO_TEST_SUITE_END()
