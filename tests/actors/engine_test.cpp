#include "actors/system.hpp"
#include "answers.hpp"
#include "config/model_config.hpp"
#include "reference_requests.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>
#include <boost/test/unit_test.hpp>

#include <chrono>

using namespace std::chrono_literals;
using namespace troupe;
using testing::answer;
using testing::client;
using testing::ending;

namespace {

config::engine_config config_for(const std::string& checkpoint, int32_t ranks,
                                 config::isolation_mode isolation) {
  config::engine_config config;
  config.model.path = (testing::fixtures() / checkpoint).string();
  config.model.dtype = config::compute_dtype::float32;
  config.model.max_model_len = 1024;
  config.parallel.tensor = ranks;
  config.parallel.isolation = isolation;
  config.parallel.shard_program = TROUPE_SHARD_PROGRAM;
  config.limits.max_num_seqs = 8;
  config.limits.max_num_batched_tokens = 128;
  config.limits.kv_cache_bytes = int64_t{64} << 20;
  config.limits.step_timeout = 20s;
  return config;
}

struct running_engine {
  explicit running_engine(const config::engine_config& config)
      : system(settings), engine(system, config), checkpoint(config::read_checkpoint_config(config)) {
    engine.wait_ready(120s);
  }
  actors::system_config settings;
  caf::actor_system system;
  actors::engine engine;
  config::checkpoint_config checkpoint;
};

/// Submits all cases of a set at once and compares every token with the reference's.
void check_reference(running_engine& running, const std::string& set_name) {
  const testing::reference_set set(set_name);
  client asking(running.system, running.engine.gateway());
  std::vector<actors::request_id> ids;
  for (const auto& example : set.cases) {
    auto request = testing::request_of(example, running.checkpoint.preprocessor);
    ids.push_back(request->id);
    asking.submit(request);
  }
  BOOST_REQUIRE(asking.wait(240s));
  for (size_t i = 0; i < set.cases.size(); ++i) {
    const auto& found = asking.of(ids[i]);
    BOOST_TEST_CONTEXT(set.cases[i].name << ": " << found.code << " " << found.message) {
      BOOST_TEST((found.end == ending::finished));
      BOOST_TEST(found.ends == 1);
      BOOST_TEST(found.tokens == set.cases[i].generated_ids, boost::test_tools::per_element());
    }
  }
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

BOOST_AUTO_TEST_SUITE_END()
