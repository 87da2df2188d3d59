// The program that tests start for shards in processes of their own.
#include "actors/shard_process.hpp"
#include "support/faulty_operations.hpp"

#include <cstdio>

int main(int argc, char** argv) {
  if (const auto options = troupe::actors::parse_shard_command(argc, argv))
    return troupe::actors::run_shard_process(*options, troupe::testing::make_faulty_operations);
  std::fputs("expected: shard --parent PID\n", stderr);
  return 2;
}
