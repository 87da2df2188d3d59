#pragma once

#include "actors/device_worker.hpp"
#include "actors/engine_messages.hpp"

#include <caf/stateful_actor.hpp>
#include <caf/typed_event_based_actor.hpp>

#include <sys/types.h>

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// A shard in a process of its own, with the vision tower beside the one of rank 0: both sides of it.
///
///   node                                          child
///   launcher: fork and exec ---------------------> run_shard_process
///   secret through the control socket -----------> reads it, listens on 127.0.0.1, any port
///             <------------------ the port through the report pipe
///   connects, open_door{secret} -----------------> the door compares, closes the port, and only then
///             <---------------------------------- gives its shard, and a vision tower if asked for
///   symmetric memory through the control socket -> holds it for the shard to map, answers with its numbers;
///                                                  again for every new group that the shard joins
///   holds the control socket open                  its end means the node is gone: exit
namespace troupe::actors {

/// The command word by which a program knows that it is to be a shard: `program shard --parent PID`.
inline constexpr const char* shard_command = "shard";

/// Set in the environment of a shard process. A program that ignores the command word would start a second
/// engine, and that one a third: an engine refuses to start where this is set.
inline constexpr const char* shard_process_variable = "TROUPE_SHARD_PROCESS";

struct shard_process_options {
  pid_t parent = 0;  // if somebody else is the parent already, the node died during start
};

/// The options if the command line asks for a shard process. An embedding program that wants shards in
/// processes of their own calls this first in its main, and returns run_shard_process's result.
std::optional<shard_process_options> parse_shard_command(int argc, const char* const* argv);

/// Serves one shard until the node ends or lets go, never longer than two seconds after that. If its device
/// is lost, it says so and ends. Returns the exit status of the process. `make_backend` is for tests.
int run_shard_process(const shard_process_options& options,
                      gpu::backend_factory make_backend = gpu::make_operations);

struct shard_process_launcher_options {
  std::string program;  // an executable that calls parse_shard_command
  // To listen, and to be connected. A child that ends is noticed at once.
  std::chrono::milliseconds start_timeout{120'000};
  std::chrono::milliseconds hand_over_timeout{5'000};  // of a process that runs
};

class child_process;
class file_descriptor;

/// The child lives as long as this state.
struct shard_process_state {
  shard_process_state();
  ~shard_process_state();
  std::unique_ptr<file_descriptor> control;  // closing it tells the child to end
  std::unique_ptr<child_process> child;
  static inline const char* name = "shard_process";
};

/// Starts a shard in a process of its own. Spawned detached: it blocks, and the child is told to die with the
/// thread that started it.
shard_launcher_actor::behavior_type shard_process_launcher(
    shard_launcher_actor::stateful_pointer<shard_process_state> self,
    shard_process_launcher_options options);

/// Starts a shard, maybe with a vision tower, as detached actors of this process. They end with the launcher.
shard_launcher_actor::behavior_type shard_thread_launcher(shard_launcher_actor::pointer self,
                                                          gpu::backend_factory make_backend);

}  // namespace troupe::actors
