#include "actors/visual_rows.hpp"

#include <boost/test/unit_test.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>

using namespace troupe;
using actors::visual_rows;

namespace {

plan::media_digest digest_of(uint8_t picture) {
  plan::media_digest digest{};
  digest[0] = picture;
  digest[31] = static_cast<uint8_t>(picture ^ 0x5a);
  return digest;
}

visual_rows::visual_item picture(uint8_t name, int32_t rows) { return {digest_of(name), rows}; }

void require_consistent(const visual_rows& rows) { BOOST_REQUIRE_EQUAL(rows.check(), ""); }

}  // namespace

BOOST_AUTO_TEST_SUITE(visual_rows_bookkeeping)

BOOST_AUTO_TEST_CASE(rows_are_claimed_filled_announced_and_kept) {
  visual_rows rows(10);
  BOOST_TEST(rows.enqueue(1, {picture('a', 4)}) == "");
  const auto claims = rows.serve();
  BOOST_REQUIRE(claims.size() == 1);
  BOOST_TEST(claims[0].rows.size() == 4);
  BOOST_TEST(rows.take_ready().empty());
  rows.filled(digest_of('a'));
  BOOST_TEST(rows.take_ready() == std::vector<visual_rows::request_id>{1});
  BOOST_TEST(rows.take_ready().empty());
  BOOST_REQUIRE(rows.rows_of(1, digest_of('a')) != nullptr);
  BOOST_TEST(*rows.rows_of(1, digest_of('a')) == claims[0].rows);
  rows.release(1);
  BOOST_TEST(rows.totals().cached == 4);
  BOOST_TEST(rows.totals().held == 0);
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(a_picture_in_flight_or_kept_is_claimed_once) {
  visual_rows rows(10);
  rows.enqueue(1, {picture('a', 4)});
  rows.enqueue(2, {picture('a', 4), picture('a', 4)});
  BOOST_TEST(rows.serve().size() == 1);
  rows.filled(digest_of('a'));
  BOOST_TEST((rows.take_ready() == std::vector<visual_rows::request_id>{1, 2}));
  rows.release(1);
  rows.release(2);
  rows.enqueue(3, {picture('a', 4)});
  BOOST_TEST(rows.serve().empty());
  BOOST_TEST(rows.take_ready() == std::vector<visual_rows::request_id>{3});
  BOOST_TEST(rows.totals().items_claimed == 1);
  BOOST_TEST(rows.totals().items_shared == 2);
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(requests_are_served_in_order_and_all_at_once) {
  visual_rows rows(10);
  rows.enqueue(1, {picture('a', 6)});
  rows.enqueue(2, {picture('b', 3), picture('c', 3)});  // has room for one of the two only
  rows.enqueue(3, {picture('d', 1)});                   // would fit, but came later
  BOOST_TEST(rows.serve().size() == 1);
  rows.filled(digest_of('a'));
  BOOST_TEST(rows.totals().held == 6);
  rows.release(1);
  const auto claims = rows.serve();
  BOOST_TEST(claims.size() == 3);
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(the_picture_released_longest_ago_makes_room) {
  visual_rows rows(8);
  for (const uint8_t name : {'a', 'b'}) {
    rows.enqueue(name, {picture(name, 4)});
    rows.serve();
    rows.filled(digest_of(name));
  }
  rows.release('b');
  rows.release('a');
  rows.enqueue(1, {picture('c', 4)});
  BOOST_TEST(rows.serve().size() == 1);  // in the place of b
  rows.enqueue(2, {picture('a', 4)});
  BOOST_TEST(rows.serve().empty());
  rows.enqueue(3, {picture('b', 4)});
  BOOST_TEST(rows.serve().empty());  // waits: a and c are held
  BOOST_TEST(rows.totals().held == 8);
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(making_room_never_evicts_what_the_same_request_wants) {
  visual_rows rows(8);
  rows.enqueue(1, {picture('a', 4)});
  rows.serve();
  rows.filled(digest_of('a'));
  rows.release(1);
  rows.enqueue(2, {picture('b', 4), picture('a', 4)});
  const auto claims = rows.serve();
  BOOST_REQUIRE(claims.size() == 1);
  BOOST_TEST((claims[0].digest == digest_of('b')));
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(a_request_released_while_its_rows_are_being_filled_keeps_nothing) {
  visual_rows rows(4);
  rows.enqueue(1, {picture('a', 4)});
  rows.serve();
  rows.release(1);
  rows.enqueue(2, {picture('b', 4)});
  BOOST_TEST(rows.serve().empty());  // the encoder still writes into those rows
  rows.filled(digest_of('a'));
  BOOST_TEST(rows.take_ready().empty());
  BOOST_TEST(rows.serve().size() == 1);
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(a_failure_frees_rows_and_names_those_who_held_them) {
  visual_rows rows(8);
  rows.enqueue(1, {picture('a', 4)});
  rows.enqueue(2, {picture('a', 4), picture('b', 4)});
  rows.serve();
  BOOST_TEST((rows.failed(digest_of('a')) == std::vector<visual_rows::request_id>{1, 2}));
  rows.filled(digest_of('b'));
  BOOST_TEST(rows.take_ready().empty());
  BOOST_TEST(rows.totals().held == 0);
  BOOST_TEST(rows.failed(digest_of('a')).empty());
  require_consistent(rows);
}

BOOST_AUTO_TEST_CASE(what_can_never_be_served_is_refused) {
  visual_rows rows(8);
  BOOST_TEST(rows.enqueue(1, {picture('a', 9)}) == "9 visual rows wanted, the pool has 8");
  BOOST_TEST(rows.enqueue(2, {picture('b', 4)}) == "");
  BOOST_TEST(rows.enqueue(2, {picture('b', 4)}) == "request 2 already holds or awaits visual rows");
  rows.serve();
  BOOST_TEST(rows.enqueue(3, {picture('b', 5)}) == "an item of 5 visual rows is known with 4");
  rows.release(99);
  require_consistent(rows);
}

/// Random requests, completions, failures and releases: the books always balance, nothing waits for ever.
BOOST_AUTO_TEST_CASE(random_traffic_keeps_the_books) {
  std::mt19937_64 random(42);
  for (int32_t round = 0; round < 50; ++round) {
    visual_rows rows(16);
    std::map<visual_rows::request_id, bool> live;  // id -> announced
    std::vector<plan::media_digest> filling;
    visual_rows::request_id next = 1;
    const auto settle = [&] {
      for (auto& claim : rows.serve()) filling.push_back(claim.digest);
      for (const auto id : rows.take_ready()) live.at(id) = true;
      require_consistent(rows);
    };
    for (int32_t i = 0; i < 300; ++i) {
      const auto dice = random() % 10;
      if (dice < 4) {
        std::vector<visual_rows::visual_item> items;
        for (uint64_t n = 1 + random() % 3; n > 0; --n) {
          const auto name = static_cast<uint8_t>(random() % 8);
          items.push_back(picture(name, 1 + name % 5));  // rows follow from the picture
        }
        BOOST_REQUIRE(rows.enqueue(next, items) == "");
        live[next++] = false;
      } else if (dice < 7 && !filling.empty()) {
        const auto at = static_cast<ptrdiff_t>(random() % filling.size());
        rows.filled(filling[static_cast<size_t>(at)]);
        filling.erase(filling.begin() + at);
      } else if (dice == 7 && !filling.empty()) {
        for (const auto id : rows.failed(filling.back())) live.erase(id);
        filling.pop_back();
      } else if (!live.empty()) {
        const auto victim = std::next(live.begin(), static_cast<ptrdiff_t>(random() % live.size()));
        rows.release(victim->first);
        live.erase(victim);
      }
      settle();
    }
    // Fill what is being filled and release what was announced: everybody is served in the end.
    for (int32_t i = 0; i < 1'000 && !(live.empty() && filling.empty()); ++i) {
      for (const auto& digest : std::exchange(filling, {})) rows.filled(digest);
      settle();
      std::erase_if(live, [&](const auto& item) {
        if (item.second) rows.release(item.first);
        return item.second;
      });
      settle();
    }
    BOOST_TEST(live.empty());
    BOOST_TEST(rows.totals().held == 0);
  }
}

BOOST_AUTO_TEST_SUITE_END()
