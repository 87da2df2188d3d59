#pragma once

#include "actors/media_digest.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "model/plan/prompt.hpp"

#include <cstdint>
#include <deque>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

namespace troupe::actors {

/// Who holds which rows of the visual pool: leases per request over items keyed by digest. Pure bookkeeping.
///
/// An item's rows are  absent -> claimed (being encoded) -> ready  and, once no request holds them, kept in
/// order of release until their place is needed. Requests are served strictly in order of arrival, each all
/// at once: a request that waits holds nothing, so requests cannot wait for each other in a circle.
class visual_rows {
 public:
  using request_id = scheduling::request_id;

  struct visual_item {
    plan::media_digest digest{};
    int32_t num_rows = 0;
  };
  /// Rows that an item got and that must be filled.
  struct claim {
    plan::media_digest digest{};
    std::vector<int32_t> rows;
  };
  struct statistics {
    int32_t total = 0;
    int32_t held = 0;    // by requests, or being filled
    int32_t cached = 0;  // ready, nobody's
    int64_t items_claimed = 0;
    int64_t items_shared = 0;  // wanted while ready or being filled for somebody else
  };

  explicit visual_rows(int32_t num_rows);

  /// Queues the request for all its items (equal digests count once). Empty if it can ever be served, else
  /// why not: too many rows, or an item known with other rows. A request may wait or hold only once.
  std::string enqueue(request_id id, std::vector<visual_item> items);

  /// Serves waiting requests in order for as long as the head's items fit; the claims are to be filled.
  std::vector<claim> serve();

  /// The claim's rows are filled. Without effect for a digest that is not claimed.
  void filled(const plan::media_digest& digest);
  /// They could not be: the rows are free again. Returns the requests that held them; they hold and wait for
  /// nothing any more.
  std::vector<request_id> failed(const plan::media_digest& digest);

  /// Requests whose items all became ready since the last call, in the order they were queued.
  std::vector<request_id> take_ready();

  /// Rows of a held item, in row order, until it is given back; null if the request does not hold it.
  const std::vector<int32_t>* rows_of(request_id id, const plan::media_digest& digest) const;

  /// Gives back whatever the request holds or waits for. Unknown requests have no effect.
  void release(request_id id);

  statistics totals() const;
  /// Recounts everything; the first contradiction found, empty if none.
  std::string check() const;

 private:
  struct entry {
    std::vector<int32_t> rows;
    int32_t holders = 0;
    bool ready = false;
    std::list<plan::media_digest>::iterator idle;  // in idle_, if ready and without holders
  };
  struct row_lease {
    std::vector<visual_item> items;
    bool served = false;
  };
  using entry_map = std::unordered_map<plan::media_digest, entry, media_digest_hash>;

  bool fits(const row_lease& lease) const;
  void serve(row_lease& lease, std::vector<claim>& claims);
  void hold(entry& item);
  void drop_hold(const plan::media_digest& digest);
  std::vector<int32_t> take_rows(int32_t count);
  void evict_oldest();

  int32_t num_rows_;
  std::vector<int32_t> free_;
  entry_map entries_;
  std::list<plan::media_digest> idle_;  // released longest ago first
  std::unordered_map<request_id, row_lease> leases_;
  std::deque<request_id> waiting_;   // not served
  std::deque<request_id> unready_;   // served, some item not ready
  int64_t items_claimed_ = 0;
  int64_t items_shared_ = 0;
};

}  // namespace troupe::actors
