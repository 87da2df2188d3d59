#include "actors/child_process.hpp"
#include "actors/descriptor_passing.hpp"
#include "actors/engine_messages.hpp"
#include "actors/errors.hpp"
#include "actors/shard_process.hpp"
#include "actors/system.hpp"
#include "support/reference_set.hpp"

#include <boost/test/unit_test.hpp>
#include <caf/io/middleman.hpp>
#include <caf/scoped_actor.hpp>
#include <poll.h>
#include <unistd.h>

#include <chrono>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace troupe;

namespace {

// For what hangs; nothing depends on how long a slow machine takes.
constexpr std::chrono::milliseconds patience = 5min;

/// What comes out of a pipe until a line ends, the other side closes, or patience does.
std::string read_line(int descriptor) {
  std::string line;
  pollfd wanted{descriptor, POLLIN, 0};
  char byte = 0;
  while (::poll(&wanted, 1, static_cast<int>(patience.count())) == 1 &&
         ::read(descriptor, &byte, 1) == 1 && byte != '\n')
    line += byte;
  return line;
}

/// Whether the process runs: one that ended but was not waited for yet does not.
bool alive(int process) {
  std::ifstream stat("/proc/" + std::to_string(process) + "/stat");
  std::string id, name, state;
  return (stat >> id >> name >> state) && state != "Z";
}

/// Connects to a shard's door as its node does: a heartbeat in the middle of the handshake ends
/// that attempt.
caf::expected<actors::shard_door_actor> connect(caf::actor_system& system, uint16_t port) {
  const auto last = std::chrono::steady_clock::now() + patience;
  while (true) {
    auto door = system.middleman().remote_actor<actors::shard_door_actor>("127.0.0.1", port);
    if (door || door.error() != caf::sec::connection_timeout ||
        std::chrono::steady_clock::now() > last)
      return door;
  }
}

}  // namespace

BOOST_AUTO_TEST_SUITE(child_processes)

BOOST_AUTO_TEST_CASE(a_child_sees_its_arguments_variables_and_descriptors) {
  auto pipe = actors::make_pipe();
  const std::string script = "echo $0 $NAME >&3; ls /proc/self/fd | tr '\\n' ' ' >&3; echo >&3";
  const actors::child_process child("/bin/sh", {"-c", script, "word"}, {"NAME=value"},
                                    {pipe.write.number()});
  pipe.write.reset();
  BOOST_TEST(read_line(pipe.read.number()) == "word value");
  // 0 to 2, ours, and the folder that ls reads.
  BOOST_TEST(read_line(pipe.read.number()) == "0 1 2 3 4 ");
}

BOOST_AUTO_TEST_CASE(descriptors_arrive_in_order_whatever_their_numbers_were) {
  auto first = actors::make_pipe();
  auto second = actors::make_pipe();
  const actors::child_process child("/bin/sh", {"-c", "echo one >&3; echo two >&4"}, {},
                                    {second.write.number(), first.write.number()});
  BOOST_TEST(read_line(second.read.number()) == "one");
  BOOST_TEST(read_line(first.read.number()) == "two");
}

BOOST_AUTO_TEST_CASE(a_child_ends_with_its_owner) {
  int process = 0;
  {
    const actors::child_process child("/bin/sleep", {"1000"}, {}, {});
    process = child.id();
    BOOST_TEST(alive(process));
  }
  BOOST_TEST(!alive(process));
}

BOOST_AUTO_TEST_CASE(a_program_that_is_not_there_is_named) {
  BOOST_CHECK_EXCEPTION(actors::child_process("/no/such/program", {}, {}, {}), actors::launch_error,
                        [](const actors::launch_error& error) {
                          return std::string(error.what()).find("/no/such/program") != std::string::npos;
                        });
}

BOOST_AUTO_TEST_CASE(descriptors_reach_whoever_has_the_other_end) {
  auto [ours, theirs] = actors::make_socket_pair();
  auto first = actors::make_pipe();
  auto second = actors::make_pipe();
  std::thread receiver([socket = theirs.number()] {
    std::vector<actors::file_descriptor> held;
    while (auto taken = actors::take_descriptors(socket)) {  // as a shard process holds memory
      held = *std::move(taken);
      actors::confirm_descriptors(socket, held);
    }
  });
  const auto numbers =
      actors::pass_descriptors(ours.number(), {second.write.number(), first.write.number()}, 10s);
  BOOST_REQUIRE(numbers.size() == 2U);
  BOOST_REQUIRE(::write(numbers[0], "one\n", 4) == 4);
  BOOST_REQUIRE(::write(numbers[1], "two\n", 4) == 4);
  BOOST_TEST(read_line(second.read.number()) == "one");
  BOOST_TEST(read_line(first.read.number()) == "two");

  const auto next = actors::pass_descriptors(ours.number(), {first.write.number()}, 10s);
  BOOST_TEST(next.size() == 1U);
  second.write.reset();
  BOOST_TEST(read_line(second.read.number()) == "");  // the last of its ends was let go
  ours.reset();
  receiver.join();
}

BOOST_AUTO_TEST_CASE(descriptors_that_nobody_takes_are_reported_in_time) {
  const auto says = [](const std::string& what) {
    return [what](const actors::launch_error& error) {
      return std::string(error.what()).find(what) != std::string::npos;
    };
  };
  auto [ours, theirs] = actors::make_socket_pair();
  BOOST_CHECK_EXCEPTION(actors::pass_descriptors(ours.number(), {0}, 50ms), actors::launch_error,
                        says("no answer to the descriptors for 50 ms"));
  BOOST_CHECK_EXCEPTION(actors::pass_descriptors(ours.number(), {}, 50ms), actors::launch_error,
                        says("0 descriptors to pass, expected 1 to 16"));
  theirs.reset();
  BOOST_CHECK_THROW(actors::pass_descriptors(ours.number(), {0}, 10s), actors::launch_error);
}

BOOST_AUTO_TEST_CASE(a_packet_without_its_descriptors_is_refused) {
  const auto [ours, theirs] = actors::make_socket_pair();
  const int numbers[] = {4, 5};
  BOOST_REQUIRE(::write(ours.number(), numbers, sizeof numbers) == sizeof numbers);
  BOOST_CHECK_EXCEPTION(actors::take_descriptors(theirs.number()), actors::launch_error,
                        [](const actors::launch_error& error) {
                          return std::string(error.what()) == "0 descriptors came in 8 bytes, expected 2";
                        });
}

BOOST_AUTO_TEST_CASE(only_the_exact_command_makes_a_shard) {
  const auto parse = [](std::vector<const char*> words) {
    words.insert(words.begin(), "program");
    return actors::parse_shard_command(static_cast<int>(words.size()), words.data());
  };
  BOOST_REQUIRE(parse({"shard", "--parent", "17"}).has_value());
  BOOST_TEST(parse({"shard", "--parent", "17"})->parent == 17);
  BOOST_TEST(!parse({}).has_value());
  BOOST_TEST(!parse({"shard"}).has_value());
  BOOST_TEST(!parse({"serve", "--parent", "17"}).has_value());
  BOOST_TEST(!parse({"shard", "--parent", "17x"}).has_value());
  BOOST_TEST(!parse({"shard", "--parent", ""}).has_value());
}

BOOST_AUTO_TEST_CASE(a_shard_started_by_hand_ends_at_once) {
  auto silent = actors::make_pipe();
  auto report = actors::make_pipe();
  const actors::child_process child(TROUPE_SHARD_PROGRAM, {"shard", "--parent", "1"}, {},
                                    {silent.read.number(), report.write.number()});
  report.write.reset();
  BOOST_TEST(read_line(report.read.number()) == "");  // it closed its end without a word
}

BOOST_AUTO_TEST_CASE(whoever_does_not_know_the_secret_gets_no_shard) {
  const auto [control, childs] = actors::make_socket_pair();
  auto report = actors::make_pipe();
  const std::string secret(32, 's');
  BOOST_REQUIRE(::write(control.number(), secret.data(), secret.size()) == std::ssize(secret));
  const actors::child_process child(TROUPE_SHARD_PROGRAM,
                                    {"shard", "--parent", std::to_string(::getpid())}, {},
                                    {childs.number(), report.write.number()});
  std::string port(5, '0');
  for (auto& digit : port) BOOST_REQUIRE(::read(report.read.number(), &digit, 1) == 1);

  actors::system_config settings;
  caf::actor_system system(settings);
  const auto number = static_cast<uint16_t>(std::stoi(port));
  const auto door = connect(system, number);
  BOOST_REQUIRE(door);
  caf::scoped_actor self(system);
  const auto knock = [&](const std::string& word, std::chrono::milliseconds wait) {
    std::string reply;
    self->request(*door, wait, actors::open_door{word})
        .receive([&](const actors::door_opened&) { reply = "opened"; },
                 [&](const caf::error& error) { reply = actors::describe(error); });
    return reply;
  };
  BOOST_TEST(knock(std::string(32, 'x'), patience) == "refused: wrong secret");
  BOOST_TEST(knock(secret, 2s) != "opened");  // there is one try, and silence is no opening
}

BOOST_AUTO_TEST_CASE(shards_end_with_a_killed_node) {
  auto report = actors::make_pipe();
  std::vector<int> shards;
  {
    const actors::child_process node(TROUPE_ENGINE_PROGRAM, {(testing::fixtures() / "tiny").string()}, {},
                                     {report.write.number()});
    report.write.reset();
    std::istringstream line(read_line(report.read.number()));
    for (int shard = 0; line >> shard;) shards.push_back(shard);
    BOOST_REQUIRE(shards.size() == 2U);
    for (const int shard : shards) BOOST_TEST(alive(shard));
  }
  const auto deadline = std::chrono::steady_clock::now() + patience;
  while ((alive(shards[0]) || alive(shards[1])) && std::chrono::steady_clock::now() < deadline)
    std::this_thread::sleep_for(10ms);
  for (const int shard : shards) BOOST_TEST(!alive(shard));
}

BOOST_AUTO_TEST_SUITE_END()
