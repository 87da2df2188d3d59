// One picture and a few tokens, in the smallest buckets there are: what a checker that slows every
// kernel down a thousand times can still run. Eagerly, since such checkers see little inside
// graphs.
#include "support/runner_fixture.hpp"

#include <boost/test/unit_test.hpp>

#include <string>
#include <vector>

using namespace troupe;
using namespace troupe::testing;

namespace {

constexpr const char* picture_case = "image3-64x64-png";
constexpr size_t num_tokens = 4;

std::vector<int32_t> play(const std::string& checkpoint, int32_t tp_size, gpu::dtype activation) {
  runner_fixture f({.checkpoint = checkpoint,
                    .tp_size = tp_size,
                    .activation = activation,
                    .eager = true,
                    .token_buckets = {1, 32},
                    .max_patches = 64});
  const int32_t sequence = f.builder.add(f.prompt(picture_case), f.encode(picture_case));
  while (f.builder.generated(sequence).size() < num_tokens) f.step(sequence, 32);
  return f.builder.generated(sequence);
}

void check_tokens(const std::string& checkpoint, int32_t tp_size, gpu::dtype activation) {
  const reference_set set("ref-" + checkpoint);
  const auto& expected = case_named(set, picture_case).generated_ids;
  BOOST_TEST(play(checkpoint, tp_size, activation) ==
                 std::vector<int32_t>(expected.begin(), expected.begin() + num_tokens),
             boost::test_tools::per_element());
}

}  // namespace

BOOST_AUTO_TEST_SUITE(smallest_run)

BOOST_AUTO_TEST_CASE(of_dense_layers) {
  check_tokens("tiny", 1, gpu::dtype::bf16);
}

BOOST_AUTO_TEST_CASE(of_experts) {
  check_tokens("moe", 1, gpu::dtype::f32);
  // Rounded scores of experts lie so near each other that tokens are a matter of the order of sums:
  // what can be asked is that there are some.
  for (const int32_t token : play("moe", 1, gpu::dtype::bf16)) BOOST_TEST(token >= 0);
}

BOOST_AUTO_TEST_CASE(of_two_ranks) {
  check_tokens("tiny", 2, gpu::dtype::f32);
}

BOOST_AUTO_TEST_SUITE_END()
