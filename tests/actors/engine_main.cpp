// A program with an engine whose shards live in processes of their own. Writes their process ids to
// descriptor 3 and waits to be killed.
#include "actors/shard_process.hpp"
#include "actors/system.hpp"

#include <caf/actor_system.hpp>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <string>

using namespace troupe;

namespace {

constexpr int report_descriptor = 3;

int run(const std::string& checkpoint) {
  config::engine_config config;
  config.model.path = checkpoint;
  config.model.max_model_len = 256;
  config.parallel.tensor = 2;
  config.parallel.isolation = config::isolation_mode::process;
  config.limits.kv_cache_bytes = int64_t{16} << 20;
  actors::system_config settings;
  caf::actor_system system(settings);
  actors::engine engine(system, config);
  engine.wait_ready(std::chrono::minutes{2});
  std::string line;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(task.path() / "children");
    for (int child = 0; list >> child;) line += std::to_string(child) + ' ';
  }
  line += '\n';
  if (::write(report_descriptor, line.data(), line.size()) < 0) return 1;
  while (true) ::pause();
}

}  // namespace

int main(int argc, char** argv) try {
  if (const auto shard = actors::parse_shard_command(argc, argv)) return actors::run_shard_process(*shard);
  return argc == 2 ? run(argv[1]) : 2;
} catch (const std::exception& failure) {
  std::fprintf(stderr, "%s\n", failure.what());
  return 1;
}
