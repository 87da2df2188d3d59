#pragma once

#include "actors/system.hpp"
#include "answers.hpp"
#include "config/model_config.hpp"
#include "reference_requests.hpp"
#include "support/faulty_operations.hpp"
#include "support/reference_set.hpp"
#include "support/temporary_folder.hpp"

#include <boost/test/unit_test.hpp>
#include <caf/scoped_actor.hpp>

#include <sys/types.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// The real engine in a test, on the bundled checkpoint, and the processes it starts.
namespace troupe::testing {

/// For what hangs; nothing depends on how long a slow machine takes.
inline constexpr std::chrono::minutes patience{10};

inline config::engine_config config_for(const std::string& checkpoint, int32_t ranks,
                                        config::isolation_mode isolation) {
  config::engine_config config;
  config.model.path = (fixtures() / checkpoint).string();
  config.model.dtype = config::compute_dtype::float32;
  config.model.max_model_len = 1024;
  config.parallel.device = config::device_choice::cpu;
  config.parallel.tensor = ranks;
  config.parallel.isolation = isolation;
  config.parallel.shard_program = TROUPE_SHARD_PROGRAM;
  config.limits.max_num_seqs = 8;
  config.limits.max_num_batched_tokens = 128;
  config.limits.kv_cache_bytes = int64_t{64} << 20;
  config.limits.step_timeout = patience;  // the end of a process, or its silence, tells
  return config;
}

/// A shard process that only waits for a busy machine is not frozen.
inline actors::system_config& with_patience(actors::system_config& settings) {
  settings.set("middleman.connection-timeout", caf::timespan(std::chrono::seconds{5}));
  return settings;
}

struct running_engine {
  explicit running_engine(const config::engine_config& config,
                          gpu::backend_factory make_backend = gpu::make_operations)
      : system(with_patience(settings)),
        engine(system, config, std::move(make_backend)),
        checkpoint(config::read_checkpoint_config(config)) {
    engine.wait_ready(patience);
  }
  actors::system_config settings;
  caf::actor_system system;
  actors::engine engine;
  config::checkpoint_config checkpoint;
};

inline void check_answer(const reference_case& example, const answer& found) {
  BOOST_TEST_CONTEXT(example.name << ": " << found.code << " " << found.message) {
    BOOST_TEST((found.end == ending::finished));
    BOOST_TEST(found.ends == 1);
    BOOST_TEST(found.tokens == example.generated_ids, boost::test_tools::per_element());
  }
}

/// Running children of this process, oldest first.
inline std::vector<pid_t> child_processes() {
  std::vector<pid_t> children;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(task.path() / "children");
    for (pid_t child = 0; list >> child;) children.push_back(child);
  }
  std::sort(children.begin(), children.end());
  return children;
}

/// Orders faults of backends in the processes of engines made while this lives.
class ordered_faults {
 public:
  ordered_faults() { ::setenv(fault_folder_variable, orders_.path().c_str(), 1); }
  ~ordered_faults() { ::unsetenv(fault_folder_variable); }

  void order(const std::string& fault) const { orders_.write(fault, ""); }
  bool pending(const std::string& fault) const { return std::filesystem::exists(orders_.path() / fault); }
  /// The process that stalls, once it does; nothing if `stop` comes first.
  std::optional<pid_t> wait_for_stalled(const std::stop_token& stop) const {
    while (!pending("stalled") && !stop.stop_requested())
      std::this_thread::sleep_for(std::chrono::milliseconds{5});
    pid_t process = 0;
    if (!(std::ifstream(orders_.path() / "stalled") >> process)) return std::nullopt;
    return process;
  }

 private:
  temporary_folder orders_;
};

inline actors::engine_status status_of(running_engine& running) {
  caf::scoped_actor self(running.system);
  actors::engine_status status;
  self->request(running.engine.gateway(), patience, actors::get_status{})
      .receive([&](const actors::engine_status& found) { status = found; },
               [](const caf::error& error) { BOOST_FAIL(to_string(error)); });
  return status;
}

/// Submits all cases of a set at once and compares every token with the reference's.
inline void check_reference(running_engine& running, const std::string& set_name) {
  const reference_set set(set_name);
  client asking(running.system, running.engine.gateway());
  std::vector<actors::request_id> ids;
  for (const auto& example : set.cases) {
    auto request = request_of(example, running.checkpoint.preprocessor);
    ids.push_back(request->id);
    asking.submit(request);
  }
  BOOST_REQUIRE(asking.wait(patience));
  for (size_t i = 0; i < set.cases.size(); ++i) check_answer(set.cases[i], asking.of(ids[i]));
}

}  // namespace troupe::testing
