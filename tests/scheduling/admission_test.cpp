// What is refused at the door.
#include "scheduling/planner_fixture.hpp"

#include <boost/test/data/monomorphic.hpp>
#include <boost/test/data/test_case.hpp>

#include <functional>
#include <limits>
#include <ostream>

namespace plan = troupe::plan;
namespace data = boost::unit_test::data;
using namespace troupe::scheduling;
using troupe::scheduling_test::planner_fixture;

namespace {

struct damage {
  const char* name;
  std::function<void(new_request&)> apply;
  rejection reason;
  const char* detail;
};
std::ostream& operator<<(std::ostream& out, const damage& d) {
  return out << d.name;
}

constexpr float infinite = std::numeric_limits<float>::infinity();

/// Ways to spoil a request of 10 prompt tokens with a picture in tokens 2..5.
const std::vector<damage> damages = {
    {"empty prompt", [](auto& r) { r.prompt = {}; }, rejection::malformed,
     "prompt is empty, expected a token"},
    {"token outside", [](auto& r) { r.prompt.token_ids[3] = 1'000; }, rejection::malformed,
     "prompt token 1000, expected 0 to 999"},
    {"negative token", [](auto& r) { r.prompt.token_ids[3] = -1; }, rejection::malformed,
     "prompt token -1, expected 0 to 999"},
    {"positions missing", [](auto& r) { r.prompt.positions[1].pop_back(); }, rejection::malformed,
     "9 positions for 10 tokens"},
    {"position ahead", [](auto& r) { r.prompt.positions[2][3] = 4; }, rejection::malformed,
     "token 3 has position 4, expected 0 to 3"},
    {"rope delta", [](auto& r) { r.prompt.rope_delta = 1; }, rejection::malformed,
     "rope delta 1, expected -10 to 0"},
    {"span outside", [](auto& r) { r.prompt.spans[0].num_tokens = 9; }, rejection::malformed,
     "visual span of 9 tokens at 2 (row 0), expected at least 1 within 0 to 10"},
    {"empty span", [](auto& r) { r.prompt.spans[0].num_tokens = 0; }, rejection::malformed,
     "visual span of 0 tokens at 2 (row 0), expected at least 1 within 0 to 10"},
    {"spans overlap", [](auto& r) { r.prompt.spans.push_back(r.prompt.spans[0]); },
     rejection::malformed,
     "visual span of 4 tokens at 2 (row 0), expected at least 1 within 6 to 10"},
    {"temperature", [](auto& r) { r.sampling.temperature = -infinite; }, rejection::malformed,
     "temperature is -inf, expected 0 to 2"},
    {"no tokens", [](auto& r) { r.sampling.max_tokens = 0; }, rejection::malformed,
     "max_tokens is 0, expected 1 to 2147483647"},
    {"min over max", [](auto& r) { r.sampling.min_tokens = 9; }, rejection::malformed,
     "min_tokens is 9, expected 0 to 8"},
    {"stop token",
     [](auto& r) {
       r.sampling.stop_token_ids = {5, 1'000};
     },
     rejection::malformed, "stop token 1000, expected 0 to 999"},
    {"biased token",
     [](auto& r) {
       r.sampling.logit_bias = {{1'000, 1.F}};
     },
     rejection::malformed, "bias 1 of token 1000, expected a finite one of 0 to 999"},
    {"bias",
     [](auto& r) {
       r.sampling.logit_bias = {{1, infinite}};
     },
     rejection::malformed, "bias inf of token 1, expected a finite one of 0 to 999"},
    {"context", [](auto& r) { r.sampling.max_tokens = 55; }, rejection::too_long,
     "10 prompt tokens and 55 to generate are over the context of 64"},
    {"huge max_tokens",
     [](auto& r) { r.sampling.max_tokens = std::numeric_limits<int32_t>::max(); },
     rejection::too_long, "10 prompt tokens and 2147483647 to generate are over the context of 64"},
    {"picture",
     [](auto& r) {
       r.prompt.spans[0].first_row = 30;  // the item has 34 rows, of which the prompt shows 4
     },
     rejection::too_many_visual_rows, "pictures need 34 visual rows, the pool has 32"},
    {"penalties",
     [](auto& r) {
       r.sampling.frequency_penalty = 1;
       for (int32_t id = 0; id < 60; ++id) r.sampling.logit_bias.emplace_back(id, 1.F);
     },
     rejection::too_many_adjustments,
     "penalties and bias touch up to 68 token ids, a step can carry 64"},
};

}  // namespace

BOOST_FIXTURE_TEST_SUITE(admission, planner_fixture)

BOOST_DATA_TEST_CASE_F(planner_fixture, a_request_that_can_never_run_is_refused,
                       data::make(damages), broken) {
  auto request = picture_request(1, 10, 8, 2, 4);
  broken.apply(request);
  const auto result = submit(std::move(request));
  BOOST_REQUIRE(result.rejected.has_value());
  BOOST_TEST((*result.rejected == broken.reason));
  BOOST_TEST(result.detail == broken.detail);
  BOOST_TEST(take_events().empty());
  BOOST_TEST(planner().check() == "");
}

BOOST_AUTO_TEST_CASE(a_request_that_cannot_fit_the_blocks_alone_is_refused) {
  limits.plan.num_blocks = 7;
  BOOST_TEST(!submit(text_request(1, 15, 10)).rejected);  // 24 tokens: the last is never an input
  const auto result = submit(text_request(2, 15, 11));
  BOOST_TEST((result.rejected == rejection::too_long));
  BOOST_TEST(result.detail ==
             "15 prompt tokens and 11 to generate need 7 KV blocks, a request can have 6");
}

BOOST_AUTO_TEST_CASE(the_queue_is_bounded_by_requests) {
  limits.max_waiting_requests = 2;
  submit_text(1, 4, 4);
  submit_text(2, 4, 4);
  const auto result = submit(text_request(3, 4, 4));
  BOOST_TEST((result.rejected == rejection::queue_full));
  BOOST_TEST(result.detail == "2 requests with 8 prompt tokens wait, limits are 2 and 1000");
  BOOST_TEST(result.retry_after.count() >= 1'000);
  plan_step();  // both run now
  BOOST_TEST(!submit(text_request(3, 4, 4)).rejected);
}

BOOST_AUTO_TEST_CASE(the_queue_is_bounded_by_tokens_but_takes_any_prompt_when_empty) {
  limits.max_waiting_tokens = 10;
  BOOST_TEST(!submit(text_request(1, 20, 4)).rejected);
  BOOST_TEST((submit(text_request(2, 1, 4)).rejected == rejection::queue_full));
}

BOOST_AUTO_TEST_CASE(end_tokens_outside_the_vocabulary_are_ignored) {
  limits.end_token_ids = {2, 5'000};
  auto request = text_request(1, 4, 4);
  request.sampling.min_tokens = 2;
  submit(std::move(request));
  BOOST_TEST(plan_step().adjustments.size() == 1U);
}

BOOST_AUTO_TEST_SUITE_END()
