#include "actors/system.hpp"
#include "answers.hpp"
#include "config/error.hpp"
#include "reference_requests.hpp"
#include "running_engine.hpp"
#include "support/broken_graphs.hpp"
#include "support/faulty_operations.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>
#include <caf/scoped_actor.hpp>
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <memory>
#include <optional>
#include <set>
#include <stop_token>
#include <thread>
#include <utility>

using namespace std::chrono_literals;
using namespace troupe;
using testing::answer;
using testing::check_answer;
using testing::check_reference;
using testing::child_processes;
using testing::client;
using testing::config_for;
using testing::ending;
using testing::ordered_faults;
using testing::running_engine;
using testing::patience;
using testing::status_of;

namespace {

/// Says of what it has done at once that it is done only when it is asked again, as a device would.
class late_operations final : public testing::forwarding_operations {
 public:
  using forwarding_operations::forwarding_operations;
  std::unique_ptr<gpu::milestone> mark() override { return std::make_unique<late_milestone>(); }

 private:
  struct late_milestone final : gpu::milestone {
    bool passed() override { return asked++ > 2; }
    int32_t asked = 0;
  };
};

void send_to_stalled(const std::stop_token& stop, const ordered_faults* faults, int signal) {
  if (const auto process = faults->wait_for_stalled(stop)) ::kill(*process, signal);
}

/// Whether the children are those of `before` but for one, which may still be on its way out.
bool one_child_is_replaced(const std::vector<pid_t>& before) {
  const auto replaced = [&] {
    const auto now = child_processes();
    const auto kept = std::count_if(now.begin(), now.end(), [&](pid_t process) {
      return std::find(before.begin(), before.end(), process) != before.end();
    });
    return now.size() == before.size() && kept + 1 == std::ssize(before);
  };
  const auto last = std::chrono::steady_clock::now() + patience;
  while (!replaced() && std::chrono::steady_clock::now() < last) std::this_thread::sleep_for(5ms);
  return replaced();
}

}  // namespace

BOOST_AUTO_TEST_SUITE(engine)

BOOST_DATA_TEST_CASE(threads_give_the_references_tokens, boost::unit_test::data::make({1, 2, 4}),
                     ranks) {
  running_engine running(config_for("tiny", ranks, config::isolation_mode::thread));
  check_reference(running, "ref-tiny");
}

BOOST_DATA_TEST_CASE(processes_give_the_references_tokens, boost::unit_test::data::make({1, 2, 4}),
                     ranks) {
  running_engine running(config_for("tiny", ranks, config::isolation_mode::process));
  check_reference(running, "ref-tiny");
}

/// Kills shard processes in mid-stream: a pause, then the same tokens as if nothing had happened.
BOOST_AUTO_TEST_CASE(a_killed_shard_process_is_not_noticed_in_the_answers) {
  running_engine running(config_for("tiny", 2, config::isolation_mode::process));
  const testing::reference_set set("ref-tiny");
  client asking(running.system, running.engine.gateway());
  std::vector<actors::request_id> ids;
  for (const auto& example : set.cases) {
    const auto request = testing::request_of(example, running.checkpoint.preprocessor);
    ids.push_back(request->id);
    asking.submit(request);
  }
  // The first kill comes with the first token of all, the second, of the other rank, when every prompt has
  // been computed: a picture that is encoded at both would be given up.
  const auto children = child_processes();
  BOOST_REQUIRE(children.size() == 2U);
  int32_t kills = 0;
  std::set<actors::request_id> begun;
  BOOST_REQUIRE(asking.wait(240s, [&](actors::request_id id, const answer& changed) {
    if (!changed.tokens.empty()) begun.insert(id);
    const size_t enough = kills == 0 ? 1 : ids.size();
    if (kills == 2 || begun.size() < enough || changed.end != ending::none) return;
    ::kill(children[static_cast<size_t>(kills++)], SIGKILL);
  }));
  BOOST_TEST(kills == 2);
  for (size_t i = 0; i < set.cases.size(); ++i) check_answer(set.cases[i], asking.of(ids[i]));
}

BOOST_AUTO_TEST_CASE(runs_of_the_tower_that_take_their_time_give_the_references_tokens) {
  running_engine running(config_for("tiny", 1, config::isolation_mode::thread),
                         [](const gpu::backend_options& options) {
                           return std::make_unique<late_operations>(gpu::make_operations(options));
                         });
  check_reference(running, "ref-tiny");
}

/// Of a microsecond: each part of the tower is a slice of its own. Of a millisecond: there are few, and steps
/// are often too short for another.
BOOST_DATA_TEST_CASE(pictures_in_slices_give_the_references_tokens,
                     boost::unit_test::data::make({"tiny", "dense72", "moe"}) *
                         boost::unit_test::data::make({1, 1000}),
                     checkpoint, microseconds) {
  auto config = config_for(checkpoint, 1, config::isolation_mode::thread);
  config.limits.vision_slice_microseconds = microseconds;
  config.limits.mask_unused_tokens = false;  // random weights like them
  running_engine running(config, [](const gpu::backend_options& options) {
    return std::make_unique<late_operations>(gpu::make_operations(options));
  });
  check_reference(running, "ref-" + std::string(checkpoint));
  const auto status = status_of(running);
  const int32_t least = microseconds == 1 ? 2 * running.checkpoint.model.vision.depth : 1;
  BOOST_TEST(status.vision_pacing.slices_issued >= least);
  BOOST_TEST(status.graph_captures_after_start == 0);
  BOOST_TEST(status.arena_allocations_after_start == 0);
}

BOOST_AUTO_TEST_CASE(whole_pictures_beside_steps_give_the_references_tokens) {
  auto config = config_for("tiny", 2, config::isolation_mode::process);
  config.limits.vision_slice_microseconds = 0;
  running_engine running(config);
  check_reference(running, "ref-tiny");
  const auto status = status_of(running);
  BOOST_TEST(status.vision_pacing.slices_issued > 0);
  BOOST_TEST(status.vision_pacing.slices_issued <= 2 * status.images_encoded);  // clips may be cut
}

BOOST_DATA_TEST_CASE(a_device_lost_in_a_shard_process_is_not_noticed_in_the_answers,
                     boost::unit_test::data::make({"lose-encode", "lose-step"}), fault) {
  const ordered_faults faults;
  running_engine running(config_for("tiny", 2, config::isolation_mode::process));
  const auto before = child_processes();
  faults.order(fault);
  check_reference(running, "ref-tiny");
  BOOST_TEST(!faults.pending(fault));
  BOOST_TEST(one_child_is_replaced(before));  // the other's device is as it was
}

void check_stopped(const char* fault, int signal, int32_t slice_microseconds) {
  const ordered_faults faults;
  auto config = config_for("tiny", 2, config::isolation_mode::process);
  config.limits.vision_slice_microseconds = slice_microseconds;
  running_engine running(config);
  const auto before = child_processes();
  faults.order(fault);
  const std::jthread killer(send_to_stalled, &faults, signal);
  check_reference(running, "ref-tiny");
  BOOST_TEST(!faults.pending(fault));
  BOOST_TEST(one_child_is_replaced(before));
}

BOOST_DATA_TEST_CASE(a_shard_process_stopped_in_the_middle_of_its_work_is_not_noticed_in_the_answers,
                     boost::unit_test::data::make({"stall-encode", "stall-step"}) *
                         boost::unit_test::data::make({SIGKILL, SIGSTOP}),
                     fault, signal) {
  check_stopped(fault, signal, 0);
}

BOOST_AUTO_TEST_CASE(a_shard_process_killed_between_two_slices_is_not_noticed_in_the_answers) {
  check_stopped("stall-slices", SIGKILL, 1);
}

BOOST_AUTO_TEST_CASE(an_engine_leaves_no_process_behind) {
  {
    running_engine running(config_for("tiny", 2, config::isolation_mode::process));
    BOOST_TEST(child_processes().size() == 2U);
  }
  BOOST_TEST(child_processes().empty());
}

BOOST_AUTO_TEST_CASE(a_shard_process_inherits_nothing_but_what_it_needs) {
  const int secret = ::open("/dev/null", O_RDONLY);  // without O_CLOEXEC: ours to leak
  running_engine running(config_for("tiny", 1, config::isolation_mode::process));
  const auto children = child_processes();
  BOOST_REQUIRE(children.size() == 1U);
  const auto ours = std::filesystem::read_symlink("/proc/self/fd/" + std::to_string(secret));
  int32_t listening = 0;
  for (const auto& file : std::filesystem::directory_iterator(fmt::format("/proc/{}/fd", children[0]))) {
    const auto number = std::stoi(file.path().filename().string());
    const auto target = std::filesystem::read_symlink(file.path()).string();
    if (number > 2) BOOST_TEST(target != ours.string());
    listening += target.find("socket:") == 0;
  }
  BOOST_TEST(listening >= 1);  // its connection to this node
  ::close(secret);
}

BOOST_AUTO_TEST_CASE(the_engine_that_runs_on_threads_takes_no_memory_and_captures_nothing_after_start) {
  running_engine running(config_for("tiny", 2, config::isolation_mode::thread));
  check_reference(running, "ref-tiny");
  check_reference(running, "ref-tiny");
  const auto status = status_of(running);
  BOOST_TEST(status.graph_captures_after_start == 0);
  BOOST_TEST(status.arena_allocations_after_start == 0);
  BOOST_TEST(status.images_reused > 0);
  BOOST_TEST(status.vision_rows_used == 0);
  BOOST_TEST(status.planner.blocks_held == 0);
}

BOOST_DATA_TEST_CASE(graphs_without_deepstack_are_found_and_no_client_notices,
                     boost::unit_test::data::make({1, 2}), ranks) {
  auto config = config_for("tiny", ranks, config::isolation_mode::thread);
  config.limits.verify_every = 1;
  running_engine running(config, [](const gpu::backend_options& options) {
    return std::make_unique<testing::deepstackless_graphs>(gpu::make_operations(options));
  });
  check_reference(running, "ref-tiny");
  const auto found = status_of(running).verification;
  BOOST_TEST(found.steps_verified > 0);
  BOOST_TEST(found.mismatches > 0);
  BOOST_TEST(found.graphs_quarantined > 0);
  BOOST_TEST(status_of(running).planner.replays == 0);  // no group was lost
}

BOOST_AUTO_TEST_CASE(sound_graphs_differ_in_no_verified_step) {
  auto config = config_for("tiny", 2, config::isolation_mode::process);
  config.limits.verify_every = 3;
  running_engine running(config);
  check_reference(running, "ref-tiny");
  const auto status = status_of(running);
  BOOST_TEST(status.verification.steps_verified >= status.planner.steps / 3);
  BOOST_TEST(status.verification.mismatches == 0);
  BOOST_TEST(status.graph_captures_after_start == 0);
  BOOST_TEST(status.arena_allocations_after_start == 0);
}

BOOST_AUTO_TEST_CASE(an_engine_that_ends_fails_what_still_runs) {
  auto running = std::make_unique<running_engine>(config_for("tiny", 2, config::isolation_mode::thread));
  const testing::reference_set set("ref-tiny");
  auto request = testing::request_of(set.cases.front(), running->checkpoint.preprocessor);
  request->sampling.max_tokens = 900;
  request->sampling.ignore_eos = true;
  caf::scoped_actor self(running->system);
  self->send(running->engine.gateway(),
             actors::submit_request{request, caf::actor_cast<caf::actor>(self)});
  self->receive([](const actors::text_delta&) {}, caf::after(patience) >> [] { BOOST_ERROR("no token"); });
  {
    const auto ended = std::move(running->engine);
  }
  int32_t failed = 0;
  bool more = true;
  while (more)
    self->receive([](const actors::text_delta&) {},
                  [&](const actors::request_failed& event) {
                    BOOST_TEST(event.code == "shutting_down");
                    ++failed;
                  },
                  caf::after(0s) >> [&] { more = false; });
  BOOST_TEST(failed == 1);
}

BOOST_AUTO_TEST_CASE(what_cannot_work_is_said_before_anything_starts) {
  actors::system_config settings;
  caf::actor_system system(settings);
  auto config = config_for("tiny", 3, config::isolation_mode::thread);
  BOOST_CHECK_THROW(actors::engine(system, config), config::error);
  config = config_for("no-such-checkpoint", 1, config::isolation_mode::thread);
  BOOST_CHECK_THROW(actors::engine(system, config), config::error);
}

BOOST_AUTO_TEST_CASE(a_shard_program_that_cannot_start_fails_the_engine_with_its_name) {
  actors::system_config settings;
  caf::actor_system system(settings);
  auto config = config_for("tiny", 1, config::isolation_mode::process);
  config.parallel.shard_program = "/no/such/program";
  actors::engine engine(system, config);
  BOOST_CHECK_EXCEPTION(engine.wait_ready(patience), std::runtime_error, [](const std::runtime_error& error) {
    return std::string(error.what()).find("/no/such/program") != std::string::npos;
  });
}

BOOST_AUTO_TEST_SUITE_END()
