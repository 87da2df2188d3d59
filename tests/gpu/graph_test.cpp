#include "gpu/counters.hpp"
#include "gpu/error.hpp"
#include "gpu/graph.hpp"

#include <boost/test/unit_test.hpp>

#include <memory>

using namespace troupe::gpu;

namespace {

struct counting_program : executable {
  explicit counting_program(int& launches) : launches_(launches) {}
  void launch() override { ++launches_; }
  int& launches_;
};

struct two_tensors {
  arena memory{"work", memory_kind::host};
  tensor_view input, output;

  two_tensors() {
    const auto a = memory.reserve("input", dtype::f32, {4, 8});
    const auto b = memory.reserve("output", dtype::f32, {4, 8});
    memory.seal();
    input = memory.view(a);
    output = memory.view(b);
  }

  manifest copy_manifest(const std::string& parameters = "") const {
    manifest baked({memory.lease()});
    baked.append({"copy",
                  parameters,
                  {{input.data, input.span_bytes(), input.type, access_kind::read},
                   {output.data, output.span_bytes(), output.type, access_kind::write}}});
    return baked;
  }
};

}  // namespace

BOOST_AUTO_TEST_SUITE(graph_test)

BOOST_AUTO_TEST_CASE(nothing_outside_the_arenas_can_be_baked) {
  two_tensors tensors;
  manifest baked({tensors.memory.lease()});
  float stranger = 0;
  BOOST_CHECK_EXCEPTION(
      baked.append({"copy",
                    "",
                    {{reinterpret_cast<std::byte*>(&stranger), 4, dtype::f32, access_kind::read}}}),
      error, [](const error& failure) {
        return std::string(failure.what()).find("copy bakes 4 bytes at") == 0;
      });
}

BOOST_AUTO_TEST_CASE(digest_sees_parameters_and_addresses_shape_digest_only_places) {
  two_tensors here, there;
  BOOST_TEST((here.copy_manifest().digest() == here.copy_manifest().digest()));
  BOOST_TEST((here.copy_manifest().digest() != here.copy_manifest("epsilon=1").digest()));
  BOOST_TEST((here.copy_manifest().digest() != there.copy_manifest().digest()));
  BOOST_TEST((here.copy_manifest().shape_digest() == there.copy_manifest().shape_digest()));
  BOOST_TEST(
      (here.copy_manifest().shape_digest() != there.copy_manifest("epsilon=1").shape_digest()));
}

BOOST_AUTO_TEST_CASE(reads_looks_at_direction) {
  two_tensors tensors;
  const manifest baked = tensors.copy_manifest();
  BOOST_TEST(baked.reads(tensors.input));
  BOOST_TEST(!baked.reads(tensors.output));
}

BOOST_AUTO_TEST_CASE(replay_of_a_retired_generation_is_refused_before_launch) {
  two_tensors tensors;
  int launches = 0;
  captured_graph graph("copy", tensors.copy_manifest(),
                       std::make_unique<counting_program>(launches));
  graph.replay();
  BOOST_TEST(launches == 1);
  BOOST_TEST(graph.intact());

  const counters before = read_counters();
  tensors.memory.retire(/*guard=*/true);
  BOOST_CHECK_THROW(graph.replay(), stale_graph);
  BOOST_TEST(launches == 1);
  BOOST_TEST(read_counters().refused_replays == before.refused_replays + 1);
  BOOST_TEST(read_counters().graph_replays == before.graph_replays);
}

BOOST_AUTO_TEST_SUITE_END()
