#pragma once

#include "model/plan/prompt.hpp"
#include "simulation/request_maker.hpp"
#include "simulation/toy_model.hpp"

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <utility>
#include <vector>

namespace troupe::simulation {

/// A vision encoder that serves orders first come, first served, from a pool too small for all of
/// them. Rows nobody leases any more are overwritten at once or later, so that a reader that comes
/// too late reads something else.
class fake_encoder {
 public:
  fake_encoder(random_engine& random, int32_t pool_rows);

  struct encode_order {
    uint64_t request = 0;
    plan::prompt prompt;
  };
  struct delivery {
    uint64_t request = 0;
    std::vector<int32_t> rows;  // of the prompt's spans, concatenated
  };

  void accept(encode_order order) { orders_.push_back(std::move(order)); }
  bool has_orders() const { return !orders_.empty(); }
  /// Serves the oldest order, if the pool has room.
  std::optional<delivery> serve();
  /// Takes the oldest order away without serving it.
  std::optional<uint64_t> fail();
  /// Ends the lease of `request`, or its order.
  void release(uint64_t request);

  const visual_pool_values& pool() const { return pool_; }
  bool leases(int32_t row) const;
  bool leases_nothing() const { return leases_.empty() && orders_.empty(); }

 private:
  struct resident_item {
    std::vector<int32_t> rows;
    int32_t leases = 0;
  };
  bool make_resident(const plan::media_digest& digest, int32_t rows);
  void evict(std::map<plan::media_digest, resident_item>::iterator item);

  random_engine& random_;
  visual_pool_values pool_;
  std::vector<int32_t> free_rows_;
  std::map<plan::media_digest, resident_item> items_;
  std::map<uint64_t, std::vector<plan::media_digest>> leases_;  // by request
  std::deque<encode_order> orders_;
};

}  // namespace troupe::simulation
