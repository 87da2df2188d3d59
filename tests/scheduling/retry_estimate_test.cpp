#include "actors/scheduling/retry_estimate.hpp"

#include <boost/test/unit_test.hpp>

using namespace std::chrono_literals;
using troupe::scheduling::retry_estimate;
using troupe::scheduling::time_point;

BOOST_AUTO_TEST_SUITE(retry_estimate_test)

BOOST_AUTO_TEST_CASE(without_a_rate_the_shortest_wait_is_told) {
  BOOST_TEST(retry_estimate().time_for(1'000'000).count() == 1'000);
}

BOOST_AUTO_TEST_CASE(the_wait_follows_the_rate) {
  retry_estimate estimate;
  const time_point start{};
  estimate.note(start, 0);
  estimate.note(start + 1s, 100);
  BOOST_TEST(estimate.time_for(500).count() == 5'000);
  estimate.note(start + 2s, 400);  // 300 per second: the estimate moves halfway
  BOOST_TEST(estimate.time_for(500).count() == 2'500);
}

BOOST_AUTO_TEST_CASE(idle_time_does_not_lower_the_rate) {
  retry_estimate estimate;
  const time_point start{};
  estimate.note(start, 0);
  estimate.note(start + 1s, 100);
  estimate.note(start + 3600s, 100);
  BOOST_TEST(estimate.time_for(500).count() == 5'000);
}

BOOST_AUTO_TEST_CASE(the_wait_stays_between_a_second_and_a_minute) {
  retry_estimate estimate;
  const time_point start{};
  estimate.note(start, 0);
  estimate.note(start + 1s, 10);
  BOOST_TEST(estimate.time_for(1).count() == 1'000);
  BOOST_TEST(estimate.time_for(1'000'000'000'000).count() == 60'000);
}

BOOST_AUTO_TEST_SUITE_END()
