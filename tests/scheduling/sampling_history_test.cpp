#include "actors/scheduling/sampling_history.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>

namespace plan = troupe::plan;
using troupe::scheduling::sampling_history;
using numbers = std::vector<int32_t>;

namespace {

std::vector<plan::logit_adjustment> adjustments(const sampling_history& history,
                                                int32_t generated_index = 0) {
  std::vector<plan::logit_adjustment> all;
  history.append(all, 3, generated_index);
  std::ranges::sort(all, {}, &plan::logit_adjustment::token);
  return all;
}

}  // namespace

BOOST_AUTO_TEST_SUITE(sampling_history_test)

BOOST_AUTO_TEST_CASE(plain_sampling_needs_nothing) {
  sampling_history history({}, numbers{1, 2, 3}, numbers{9});
  history.record(5);
  BOOST_TEST(history.size() == 0);
  BOOST_TEST(!history.counts_generated());
  BOOST_TEST(history.size_max(100, 50) == 0);
}

BOOST_AUTO_TEST_CASE(frequency_and_presence_count_what_was_generated) {
  plan::sampling_params sampling;
  sampling.presence_penalty = 1;
  sampling_history history(sampling, numbers{1, 2, 3}, {});
  for (const int32_t token : {5, 7, 5}) history.record(token);
  const auto all = adjustments(history);
  BOOST_REQUIRE(all.size() == 2U);
  BOOST_TEST((all[0] == plan::logit_adjustment{3, 5, 2, 1, 0}));
  BOOST_TEST((all[1] == plan::logit_adjustment{3, 7, 1, 1, 0}));
  BOOST_TEST(history.counts_generated());
}

BOOST_AUTO_TEST_CASE(repetition_also_sees_the_prompt) {
  plan::sampling_params sampling;
  sampling.repetition_penalty = 2;
  sampling_history history(sampling, numbers{1, 2, 1}, {});
  history.record(2);
  const auto all = adjustments(history);
  BOOST_REQUIRE(all.size() == 2U);
  BOOST_TEST((all[0] == plan::logit_adjustment{3, 1, 0, 1, 0}));
  BOOST_TEST((all[1] == plan::logit_adjustment{3, 2, 1, 1, 0}));
  BOOST_TEST(history.size_max(100, 1'000) == 102);
  BOOST_TEST(history.size_max(100, 50) == 50);
}

BOOST_AUTO_TEST_CASE(bias_and_history_of_one_token_are_one_entry) {
  plan::sampling_params sampling;
  sampling.frequency_penalty = 1;
  sampling.logit_bias = {{5, 2.F}, {6, -3.F}};
  sampling_history history(sampling, {}, {});
  history.record(5);
  const auto all = adjustments(history);
  BOOST_REQUIRE(all.size() == 2U);
  BOOST_TEST((all[0] == plan::logit_adjustment{3, 5, 1, 1, 2.F}));
  BOOST_TEST((all[1] == plan::logit_adjustment{3, 6, 0, 0, -3.F}));
}

BOOST_AUTO_TEST_CASE(stop_tokens_are_banned_only_before_min_tokens) {
  plan::sampling_params sampling;
  sampling.min_tokens = 2;
  const sampling_history history(sampling, {}, numbers{8, 9});
  BOOST_TEST(adjustments(history, 0).size() == 2U);
  BOOST_TEST(adjustments(history, 1)[0].bias < -1e8F);
  BOOST_TEST(adjustments(history, 2).empty());
}

BOOST_AUTO_TEST_SUITE_END()
