#include "simulation/fake_encoder.hpp"

#include <algorithm>

namespace troupe::simulation {

fake_encoder::fake_encoder(random_engine& random, int32_t pool_rows)
    : random_(random), pool_(static_cast<size_t>(pool_rows), 0xbad) {
  for (int32_t row = 0; row < pool_rows; ++row) free_rows_.push_back(row);
  std::shuffle(free_rows_.begin(), free_rows_.end(), random_);
}

std::optional<fake_encoder::delivery> fake_encoder::serve() {
  if (orders_.empty()) return std::nullopt;
  const auto& order = orders_.front();
  std::map<plan::media_digest, int32_t> needed;
  for (const auto& span : order.prompt.spans)
    needed[span.digest] = std::max(needed[span.digest], span.first_row + span.num_tokens);
  // Leased first, so that making room for one item cannot evict another of the same request.
  std::vector<plan::media_digest> leased;
  const auto give_up = [&] {
    for (const auto& digest : leased) --items_[digest].leases;
  };
  for (const auto& [digest, rows] : needed) {
    if (!make_resident(digest, rows)) {
      give_up();
      return std::nullopt;
    }
    ++items_[digest].leases;
    leased.push_back(digest);
  }
  delivery served;
  served.request = order.request;
  for (const auto& span : order.prompt.spans) {
    const auto& rows = items_[span.digest].rows;
    served.rows.insert(served.rows.end(), rows.begin() + span.first_row,
                       rows.begin() + span.first_row + span.num_tokens);
  }
  leases_[order.request] = std::move(leased);
  orders_.pop_front();
  return served;
}

std::optional<uint64_t> fake_encoder::fail() {
  if (orders_.empty()) return std::nullopt;
  const uint64_t request = orders_.front().request;
  orders_.pop_front();
  return request;
}

void fake_encoder::release(uint64_t request) {
  std::erase_if(orders_, [&](const auto& order) { return order.request == request; });
  const auto lease = leases_.find(request);
  if (lease == leases_.end()) return;
  for (const auto& digest : lease->second) {
    const auto item = items_.find(digest);
    if (--item->second.leases == 0 && chance(random_, 60)) evict(item);
  }
  leases_.erase(lease);
}

bool fake_encoder::leases(int32_t row) const {
  return std::ranges::any_of(items_, [&](const auto& entry) {
    return entry.second.leases > 0 && std::ranges::count(entry.second.rows, row) > 0;
  });
}

bool fake_encoder::make_resident(const plan::media_digest& digest, int32_t rows) {
  if (items_.contains(digest)) return true;
  for (auto item = items_.begin(); item != items_.end() && std::ssize(free_rows_) < rows;) {
    const auto next = std::next(item);
    if (item->second.leases == 0) evict(item);
    item = next;
  }
  if (std::ssize(free_rows_) < rows) return false;
  auto& added = items_[digest];
  for (int32_t row = 0; row < rows; ++row) {
    added.rows.push_back(free_rows_.back());
    free_rows_.pop_back();
    pool_[static_cast<size_t>(added.rows.back())] = visual_row_value(digest, row);
  }
  return true;
}

void fake_encoder::evict(std::map<plan::media_digest, resident_item>::iterator item) {
  for (const int32_t row : item->second.rows) {
    pool_[static_cast<size_t>(row)] = 0xbad;
    free_rows_.push_back(row);
  }
  std::shuffle(free_rows_.begin(), free_rows_.end(), random_);
  items_.erase(item);
}

}  // namespace troupe::simulation
