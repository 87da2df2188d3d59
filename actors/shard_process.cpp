#include "actors/shard_process.hpp"

#include "actors/child_process.hpp"
#include "actors/descriptor_passing.hpp"
#include "actors/errors.hpp"
#include "actors/shard_actor.hpp"
#include "actors/system.hpp"
#include "actors/vision_tower_actor.hpp"

#include <caf/actor_system.hpp>
#include <caf/io/middleman.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <poll.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <thread>
#include <utility>

namespace troupe::actors {
namespace {

constexpr size_t secret_bytes = 32;
constexpr const char* loopback = "127.0.0.1";
// Where a child finds what it inherits (child_process).
constexpr int control_descriptor = first_inherited_descriptor;
constexpr int report_descriptor = first_inherited_descriptor + 1;
constexpr int pool_descriptor = first_inherited_descriptor + 2;
constexpr int staging_descriptor = first_inherited_descriptor + 3;
// Without its node a shard is useless: what it computes then may be cut short.
constexpr std::chrono::milliseconds farewell_timeout{1'000};
// For the message that says why, on its way to the node.
constexpr std::chrono::milliseconds last_words_timeout{200};
// A child that nobody greets within this was started for nothing.
constexpr std::chrono::milliseconds greeting_timeout{20'000};
// A child waits so long for a silent node.
constexpr std::chrono::minutes patience_with_node{5};

using clock = std::chrono::steady_clock;

/// Reads exactly `count` bytes, or throws launch_error when the other side closed or time is over.
std::string read_exactly(int descriptor, size_t count, std::chrono::milliseconds timeout) {
  std::string bytes;
  const auto deadline = clock::now() + timeout;
  while (bytes.size() < count) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(deadline - clock::now());
    pollfd wanted{descriptor, POLLIN, 0};
    const int ready = ::poll(&wanted, 1, static_cast<int>(std::max<int64_t>(left.count(), 0)));
    if (ready == 0) throw launch_error(fmt::format("nothing came for {} ms", timeout.count()));
    if (ready < 0 && errno == EINTR) continue;
    std::array<char, 256> piece;
    const auto got = ::read(descriptor, piece.data(), std::min(count - bytes.size(), piece.size()));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) throw launch_error("the other process closed its end");
    bytes.append(piece.data(), static_cast<size_t>(got));
  }
  return bytes;
}

void write_all(int descriptor, std::string_view bytes) {
  while (!bytes.empty()) {
    const auto written = ::write(descriptor, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw launch_error(fmt::format("write: {}", std::strerror(errno)));
    bytes.remove_prefix(static_cast<size_t>(written));
  }
}

/// Fixed width, so that a pipe needs no framing.
std::string port_text(uint16_t port) { return fmt::format("{:05}", port); }

std::string random_secret() {
  std::string secret(secret_bytes, '\0');
  if (RAND_bytes(reinterpret_cast<unsigned char*>(secret.data()), static_cast<int>(secret.size())) != 1)
    throw launch_error("RAND_bytes gave no secret");
  return secret;
}

bool equal_in_constant_time(const std::string& a, const std::string& b) {
  return a.size() == b.size() && CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

/// A shard, maybe with a vision tower beside it, that end with `self`.
template <class Self>
door_opened spawn_workers(Self* self, device_worker_options options, bool with_vision_tower) {
  if (with_vision_tower) options.turns = std::make_shared<device_turns>();
  door_opened spawned;
  spawned.shard = self->template spawn<caf::detached + caf::linked>(shard, options);
  if (with_vision_tower)
    spawned.tower = self->template spawn<caf::detached + caf::linked>(vision_tower, options);
  return spawned;
}

// -- the child ----------------------------------------------------------------------------------------------

/// Ends the process by force after `delay`, if it has not ended in an orderly way by then (it may be in the
/// middle of a step).
void exit_after(std::chrono::milliseconds delay, int status) {
  std::thread([delay, status] {
    std::this_thread::sleep_for(delay);
    std::_Exit(status);
  }).detach();
}

/// A device that is lost stays lost in this process, whatever its actors are asked from now on.
void end_for_lost_device(const std::string& why) {
  spdlog::error("this process ends: {}", why);
  exit_after(last_words_timeout, EXIT_FAILURE);
}

struct door_state {
  door_opened behind;
  static inline const char* name = "shard_door";
};

/// The only published actor. Whoever does not know the secret gets nothing, and there is one try: the
/// node that started us never errs.
shard_door_actor::behavior_type shard_door(shard_door_actor::stateful_pointer<door_state> self,
                                           std::string secret, device_worker_options workers) {
  auto open = [self, secret = std::move(secret), workers = std::move(workers)](
                  const open_door& greeting) -> caf::result<door_opened> {
    if (!equal_in_constant_time(greeting.secret, secret)) {
      spdlog::error("somebody connected to this shard without its secret");
      self->quit(caf::exit_reason::user_shutdown);
      return make_error(engine_error::refused, "wrong secret");
    }
    self->system().middleman().unpublish(shard_door_actor(self));
    self->state.behind = spawn_workers(self, workers, greeting.with_vision_tower);
    return self->state.behind;
  };
  return {std::move(open)};
}

/// Holds the memory of one group after another; that of the last one stays until the shard has surely mapped
/// it, which it has before the node gives the next. Returns when the node closed the control socket, which it
/// also does by dying.
void hold_memory_until_end_of(int control) {
  std::vector<file_descriptor> held;
  try {
    while (auto taken = take_descriptors(control)) {
      held = *std::move(taken);
      confirm_descriptors(control, held);
    }
  } catch (const launch_error& failure) {
    spdlog::error("this process ends: memory of a group: {}", failure.what());
  }
}

int serve(const std::string& secret, gpu::backend_factory make_backend) {
  system_config config;
  // A node that is gone closes the control socket, and one that is frozen may go on.
  config.set("middleman.connection-timeout", caf::timespan(patience_with_node));
  caf::actor_system system(config);
  const auto door = system.spawn(
      shard_door, secret, device_worker_options{std::move(make_backend), end_for_lost_device});
  const auto port = system.middleman().publish(door, 0, loopback);
  if (!port) throw launch_error("cannot listen on loopback: " + describe(port.error()));
  write_all(report_descriptor, port_text(*port));
  hold_memory_until_end_of(control_descriptor);
  exit_after(farewell_timeout, EXIT_SUCCESS);
  caf::anon_send_exit(door, caf::exit_reason::kill);
  system.await_actors_before_shutdown(false);
  return EXIT_SUCCESS;
}

// -- the node -----------------------------------------------------------------------------------------------

using launcher_pointer = shard_launcher_actor::stateful_pointer<shard_process_state>;

/// Starts the child and learns its port. The state keeps what was started, whatever happens later.
uint16_t start_child(shard_process_state& state, const launch_shard& launch,
                     const shard_process_launcher_options& options, const std::string& secret) {
  auto [ours, childs] = make_socket_pair();
  auto report = make_pipe();
  const std::vector<int> inherited{childs.number(), report.write.number(),
                                   launch.visual_pool_descriptor, launch.staging_descriptor};
  write_all(ours.number(), secret);  // before the child lives: it cannot have closed its end
  state.child = std::make_unique<child_process>(
      options.program,
      std::vector<std::string>{shard_command, "--parent", std::to_string(::getpid())},
      std::vector<std::string>{std::string(shard_process_variable) + "=1"}, inherited);
  state.control = std::make_unique<file_descriptor>(std::move(ours));
  report.write.reset();  // else the end of the child would not end the pipe
  childs.reset();
  const auto text = read_exactly(report.read.number(), port_text(0).size(), options.start_timeout);
  return static_cast<uint16_t>(std::stoi(text));
}

door_opened connect(caf::actor_system& system, uint16_t port, const open_door& greeting,
                    std::chrono::milliseconds timeout) {
  const auto deadline = clock::now() + timeout;
  auto door = system.middleman().remote_actor<shard_door_actor>(loopback, port);
  // A heartbeat tick during the handshake looks like a timeout to CAF: try again.
  while (!door && door.error() == caf::sec::connection_timeout && clock::now() < deadline)
    door = system.middleman().remote_actor<shard_door_actor>(loopback, port);
  if (!door) throw launch_error("cannot connect to the child: " + describe(door.error()));

  caf::scoped_actor self(system);
  door_opened opened;
  std::string failure = "nothing is behind it";
  self->request(*door, timeout, greeting)
      .receive([&](door_opened& behind) { opened = std::move(behind); },
               [&](caf::error& error) { failure = describe(error); });
  if (!opened.shard || greeting.with_vision_tower != static_cast<bool>(opened.tower))
    throw launch_error("the child did not open its door: " + failure);
  return opened;
}

shard_launched launch_process(launcher_pointer self, const launch_shard& launch,
                              const shard_process_launcher_options& options) {
  const auto secret = random_secret();
  const auto port = start_child(self->state, launch, options, secret);
  auto [shard, tower] = connect(self->system(), port, {secret, launch.with_vision_tower},
                                options.start_timeout);
  shard_launched launched{std::move(shard), std::move(tower),
                          pass_descriptors(self->state.control->number(),
                                           launch.symmetric_descriptors, options.hand_over_timeout),
                          pool_descriptor, staging_descriptor};
  spdlog::info("shard process {} listens to this node", self->state.child->id());
  return launched;
}

handed_over hand_over_to_process(const shard_process_state& state, const hand_over& given,
                                 const shard_process_launcher_options& options) {
  if (state.control == nullptr) throw launch_error("no shard process was started");
  return {pass_descriptors(state.control->number(), given.symmetric_descriptors,
                           options.hand_over_timeout)};
}

}  // namespace

std::optional<shard_process_options> parse_shard_command(int argc, const char* const* argv) {
  if (argc != 4 || std::string_view(argv[1]) != shard_command ||
      std::string_view(argv[2]) != "--parent")
    return std::nullopt;
  shard_process_options options;
  const std::string_view text = argv[3];
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), options.parent);
  if (parsed.ec != std::errc{} || parsed.ptr != text.data() + text.size()) return std::nullopt;
  return options;
}

int run_shard_process(const shard_process_options& options, gpu::backend_factory make_backend) {
  try {
    spdlog::set_default_logger(spdlog::stderr_logger_mt(shard_command));  // output is the node's
    // Kills us when the thread that started us ends. If it ended before, we have another parent already.
    if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
      throw launch_error(fmt::format("prctl: {}", std::strerror(errno)));
    if (::getppid() != options.parent)
      throw launch_error(fmt::format("the parent is process {}, expected {}", ::getppid(), options.parent));
    return serve(read_exactly(control_descriptor, secret_bytes, greeting_timeout), std::move(make_backend));
  } catch (const std::exception& failure) {
    spdlog::error("shard process: {}", failure.what());
    return EXIT_FAILURE;
  }
}

shard_process_state::shard_process_state() = default;
shard_process_state::~shard_process_state() = default;

shard_launcher_actor::behavior_type shard_process_launcher(launcher_pointer self,
                                                           shard_process_launcher_options options) {
  const auto shared = std::make_shared<const shard_process_launcher_options>(std::move(options));
  return {
      [self, shared](const launch_shard& launch) {
        return guarded<shard_launched>([&] { return launch_process(self, launch, *shared); });
      },
      [self, shared](const hand_over& given) {
        return guarded<handed_over>(
            [&] { return hand_over_to_process(self->state, given, *shared); });
      },
  };
}

shard_launcher_actor::behavior_type shard_thread_launcher(shard_launcher_actor::pointer self,
                                                          gpu::backend_factory make_backend) {
  return {
      [self, workers = device_worker_options{std::move(make_backend), {}, {}}](
          const launch_shard& launch) -> shard_launched {
        auto [shard, tower] = spawn_workers(self, workers, launch.with_vision_tower);
        return {std::move(shard), std::move(tower), launch.symmetric_descriptors,
                launch.visual_pool_descriptor, launch.staging_descriptor};
      },
      [](const hand_over& given) { return handed_over{given.symmetric_descriptors}; },
  };
}

}  // namespace troupe::actors
