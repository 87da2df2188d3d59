// One rank of random_collectives_test in a process of its own: prints what it saw. Arguments:
// device, ranks, collectives, seed, rank, then the descriptors of the symmetric memory.
#include "transport/random_collectives.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <exception>
#include <string>
#include <vector>

using namespace troupe;

int main(int argc, char** argv) {
  constexpr int num_fixed = 6;
  if (argc <= num_fixed) return 2;
  testing::collective_task task;
  task.device = std::string(argv[1]) == "cuda" ? gpu::device_kind::cuda : gpu::device_kind::cpu;
  task.ranks = std::atoi(argv[2]);
  task.collectives = std::atoll(argv[3]);
  task.seed = static_cast<uint32_t>(std::atoll(argv[4]));
  std::vector<int> descriptors;
  for (int i = num_fixed; i < argc; ++i) descriptors.push_back(std::atoi(argv[i]));
  try {
    const auto seen = testing::run_random_collectives(task, std::atoi(argv[5]), descriptors);
    fmt::print("{} {} {} {}\n", seen.collectives, seen.wrong_rows, seen.digest, seen.first_wrong);
    return 0;
  } catch (const std::exception& failure) {
    fmt::print("0 1 0 {}\n", failure.what());
    return 1;
  }
}
