// One rank is killed, frozen or held back while the others wait for it in a collective. They leave
// their wait, keep their process, weights and graphs, and go on with another in its place; clients
// see a pause.
#include "gpu/cuda_backend.hpp"
#include "running_engine.hpp"
#include "support/runner_group.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <ostream>
#include <set>
#include <string>
#include <thread>
#include <vector>

using namespace std::chrono_literals;
using namespace troupe;
using namespace troupe::testing;

namespace {

/// Overrides how often each fault is repeated.
constexpr const char* repetitions_variable = "TROUPE_TEST_REPETITIONS";

int32_t repetitions() {
  if (const char* text = std::getenv(repetitions_variable)) return std::atoi(text);
  return tested_device() == gpu::device_kind::cpu ? 3 : 20;
}

/// A held-back rank sleeps for minutes: much longer than any bound of the engine.
enum class fate { killed, frozen, held_back };
std::ostream& operator<<(std::ostream& out, fate what) {
  return out << (what == fate::killed ? "killed" : what == fate::frozen ? "frozen" : "held back");
}

config::engine_config tested_config(int32_t ranks, config::isolation_mode isolation) {
  auto config = config_for("tiny", ranks, isolation);
  config.limits.step_timeout = 3s;
  if (tested_device() == gpu::device_kind::cuda)
    config.parallel.device = config::device_choice::cuda;
  return config;
}

/// A process has a device of its own.
bool enough_devices(int32_t ranks) {
  if (tested_device() == gpu::device_kind::cpu) return true;
  const auto found = std::ssize(gpu::cuda_devices());
  if (found < ranks)
    BOOST_TEST_MESSAGE("not run: needs " << ranks << " CUDA devices, found " << found);
  return found >= ranks;
}

/// What the text cases are answered now.
std::vector<std::vector<int32_t>> answers_of(running_engine& running, const reference_set& set) {
  client asking(running.system, running.engine.gateway());
  std::vector<actors::request_id> ids;
  for (const auto& example : set.cases) {
    if (!example.name.starts_with("text")) continue;
    const auto request = request_of(example, running.checkpoint.preprocessor);
    ids.push_back(request->id);
    asking.submit(request);
  }
  BOOST_REQUIRE(!ids.empty());
  BOOST_REQUIRE(asking.wait(patience));
  std::vector<std::vector<int32_t>> answers;
  for (const auto id : ids) {
    BOOST_TEST((asking.of(id).end == ending::finished), asking.of(id).message);
    answers.push_back(asking.of(id).tokens);
  }
  return answers;
}

/// The process that met its fate; 0 if none did until `stop`.
pid_t meet(const std::stop_token& stop, const ordered_faults& faults, fate what) {
  const pid_t process = faults.wait_for_stalled(stop).value_or(0);
  if (process != 0 && what == fate::killed) ::kill(process, SIGKILL);
  if (process != 0 && what == fate::frozen) ::kill(process, SIGSTOP);
  return process;
}

std::set<pid_t> processes() {
  const auto children = child_processes();
  return {children.begin(), children.end()};
}

void lose_one_rank(int32_t ranks, fate what) {
  const ordered_faults faults;
  const reference_set set("ref-tiny");
  running_engine running(tested_config(ranks, config::isolation_mode::process));
  if (tested_device() == gpu::device_kind::cpu) check_reference(running, "ref-tiny");
  const auto expected = answers_of(running, set);
  auto survivors = processes();
  BOOST_REQUIRE(std::ssize(survivors) == ranks);

  faults.order("stall-step");
  pid_t lost = 0;
  std::jthread doom([&](const std::stop_token& stop) { lost = meet(stop, faults, what); });
  BOOST_TEST((answers_of(running, set) == expected));
  doom.request_stop();
  doom.join();
  BOOST_TEST(survivors.erase(lost) == 1U);
  const auto after = processes();
  BOOST_TEST(std::ssize(after) == ranks);
  BOOST_TEST(!after.contains(lost));
  for (const pid_t survivor : survivors) BOOST_TEST(after.contains(survivor));

  const auto status = status_of(running);
  BOOST_TEST(status.recovery.groups_lost == 1);
  BOOST_TEST(status.recovery.ranks_kept == ranks - 1);
  BOOST_TEST(status.recovery.ranks_replaced == 1);
  BOOST_TEST(status.graph_captures_after_start == 0);
  BOOST_TEST(status.arena_allocations_after_start == 0);
  BOOST_TEST((answers_of(running, set) == expected));
}

}  // namespace

BOOST_AUTO_TEST_SUITE(kept_ranks)

BOOST_DATA_TEST_CASE(a_rank_lost_in_the_middle_of_a_collective_costs_itself_alone,
                     boost::unit_test::data::make({fate::killed, fate::frozen, fate::held_back}),
                     what) {
  if (!enough_devices(2)) return;
  for (int32_t i = 0; i < repetitions(); ++i) lose_one_rank(2, what);
}

BOOST_AUTO_TEST_CASE(three_of_four_ranks_are_kept) {
  if (enough_devices(4)) lose_one_rank(4, fate::killed);
}

/// The fault is real, so its process can use no device any more.
BOOST_AUTO_TEST_CASE(a_rank_whose_device_meets_a_fault_costs_itself_alone) {
  if (tested_device() == gpu::device_kind::cpu) {
    BOOST_TEST_MESSAGE("not run: needs CUDA devices");
    return;
  }
  if (!enough_devices(2)) return;
  const ordered_faults faults;
  const reference_set set("ref-tiny");
  running_engine running(tested_config(2, config::isolation_mode::process));
  const auto expected = answers_of(running, set);
  faults.order("fault-step");
  BOOST_TEST((answers_of(running, set) == expected));
  BOOST_TEST(!faults.pending("fault-step"));
  const auto status = status_of(running);
  BOOST_TEST(status.recovery.ranks_kept == 1);
  BOOST_TEST(status.recovery.ranks_replaced == 1);
}

/// Ranks may share a device: a rank that failed by itself goes, its thread ends, the other stays.
BOOST_AUTO_TEST_CASE(a_rank_on_a_thread_that_fails_costs_itself_alone) {
  const reference_set set("ref-tiny");
  for (int32_t i = 0; i < repetitions(); ++i) {
    const ordered_faults faults;
    running_engine running(tested_config(2, config::isolation_mode::thread),
                           make_faulty_operations);
    const auto expected = answers_of(running, set);
    faults.order("fail-step");
    BOOST_TEST((answers_of(running, set) == expected));
    BOOST_TEST(!faults.pending("fail-step"));
    const auto status = status_of(running);
    BOOST_TEST(status.recovery.ranks_kept == 1);
    BOOST_TEST(status.recovery.ranks_replaced == 1);
    BOOST_TEST(status.graph_captures_after_start == 0);
    BOOST_TEST(status.arena_allocations_after_start == 0);
  }
}

BOOST_AUTO_TEST_SUITE_END()
