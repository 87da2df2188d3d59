#include "actors/placement.hpp"
#include "config/error.hpp"
#include "support/reference_set.hpp"

#include <boost/test/unit_test.hpp>

#include <string>

using namespace troupe;

namespace {

config::engine_config on_the_cpu(config::isolation_mode isolation) {
  config::engine_config engine;
  engine.parallel.device = config::device_choice::cpu;
  engine.parallel.isolation = isolation;
  return engine;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(placement)

BOOST_AUTO_TEST_CASE(shards_on_the_cpu_are_threads_unless_processes_are_asked_for) {
  using config::isolation_mode;
  BOOST_TEST(!actors::place(on_the_cpu(isolation_mode::automatic)).isolated);
  BOOST_TEST(!actors::place(on_the_cpu(isolation_mode::thread)).isolated);
  BOOST_TEST(actors::place(on_the_cpu(isolation_mode::process)).isolated);
  BOOST_TEST(!actors::place(on_the_cpu(isolation_mode::automatic), false).isolated);
  BOOST_CHECK_THROW(actors::place(on_the_cpu(isolation_mode::process), false), config::error);
}

BOOST_AUTO_TEST_CASE(the_tower_takes_turns_with_steps_on_gpus_unless_it_is_told_otherwise) {
  using gpu::device_kind;
  const auto slice = [](int32_t said, device_kind device) {
    config::engine_config engine;
    engine.limits.vision_slice_microseconds = said;
    return actors::with_device_defaults(engine, device).limits.vision_slice_microseconds;
  };
  BOOST_TEST(slice(config::engine_config{}.limits.vision_slice_microseconds, device_kind::cpu) == 0);
  BOOST_TEST(slice(config::engine_config{}.limits.vision_slice_microseconds, device_kind::cuda) ==
             1000);
  for (const auto device : {device_kind::cpu, device_kind::cuda}) {
    BOOST_TEST(slice(0, device) == 0);
    BOOST_TEST(slice(700, device) == 700);
  }
}

BOOST_AUTO_TEST_CASE(an_engine_that_does_not_fit_is_refused_with_what_would_fit) {
  auto engine = on_the_cpu(config::isolation_mode::automatic);
  engine = actors::with_device_defaults(engine, gpu::device_kind::cpu);
  const auto where = actors::place(engine);
  const auto checkpoint = config::read_checkpoint_config(testing::fixtures() / "tiny");
  const auto limits = actors::limits_within(int64_t{4} << 30, where, engine, checkpoint);
  BOOST_TEST(limits.plan.num_blocks > limits.plan.max_blocks_per_sequence);
  BOOST_CHECK_EXCEPTION(
      actors::limits_within(int64_t{1} << 20, where, engine, checkpoint), config::error,
      [](const config::error& error) {
        return std::string(error.what()).find("1.05 MB of memory are there") != std::string::npos;
      });
}

BOOST_AUTO_TEST_SUITE_END()
