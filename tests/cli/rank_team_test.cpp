#include "actors/cli/rank_team.hpp"

#include <boost/test/unit_test.hpp>

#include <atomic>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

using troupe::cli::rank_team;

BOOST_AUTO_TEST_SUITE(rank_team_test)

BOOST_AUTO_TEST_CASE(every_rank_has_its_thread_and_the_first_is_the_callers) {
  for (const int32_t size : {1, 2, 4}) {
    rank_team team(size);
    BOOST_TEST(team.size() == size);
    std::vector<std::thread::id> first(static_cast<size_t>(size)), second(first);
    team.run([&](int32_t rank) { first[static_cast<size_t>(rank)] = std::this_thread::get_id(); });
    team.run([&](int32_t rank) { second[static_cast<size_t>(rank)] = std::this_thread::get_id(); });
    BOOST_TEST((first == second));
    BOOST_TEST((first[0] == std::this_thread::get_id()));
    for (size_t i = 0; i < first.size(); ++i)
      for (size_t j = 0; j < i; ++j) BOOST_TEST((first[i] != first[j]));
  }
}

BOOST_AUTO_TEST_CASE(nobody_leaves_a_meeting_before_all_are_there) {
  constexpr int32_t size = 3, rounds = 200;
  rank_team team(size);
  std::atomic<int32_t> arrived{0}, early{0};
  for (int32_t run = 1; run <= 2; ++run)
    team.run([&](int32_t) {
      for (int32_t round = 1; round <= rounds; ++round) {
        ++arrived;
        team.meet();
        if (arrived < size * round) ++early;
        team.meet();
        if (round == rounds) arrived = 0;
      }
    });
  BOOST_TEST(early == 0);
}

BOOST_AUTO_TEST_CASE(a_failure_takes_the_others_out_of_their_meeting_and_is_thrown) {
  rank_team team(3);
  const auto failing = [&](int32_t rank) {
    if (rank == 1) throw std::runtime_error("rank 1 is out of memory");
    team.meet();
  };
  for (int32_t run = 0; run < 2; ++run)
    BOOST_CHECK_EXCEPTION(team.run(failing), std::runtime_error, [](const auto& failure) {
      return std::string(failure.what()) == "rank 1 is out of memory";
    });
  int32_t ended = 0;
  team.run([&](int32_t rank) {
    team.meet();
    if (rank == 0) ++ended;
  });
  BOOST_TEST(ended == 1);
}

BOOST_AUTO_TEST_SUITE_END()
