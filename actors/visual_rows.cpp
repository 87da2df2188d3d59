#include "actors/visual_rows.hpp"

#include "config/ensure.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace troupe::actors {
namespace {

/// Equal pictures of one request share their rows.
void remove_repeated(std::vector<visual_rows::visual_item>& items) {
  std::vector<visual_rows::visual_item> unique;
  for (auto& item : items) {
    const auto same = [&](const auto& seen) { return seen.digest == item.digest; };
    if (std::none_of(unique.begin(), unique.end(), same)) unique.push_back(item);
  }
  items = std::move(unique);
}

void erase_id(std::deque<visual_rows::request_id>& queue, visual_rows::request_id id) {
  queue.erase(std::remove(queue.begin(), queue.end(), id), queue.end());
}

}  // namespace

visual_rows::visual_rows(int32_t num_rows) : num_rows_(num_rows) {
  config::ensure(num_rows >= 0, "a visual pool of {} rows", num_rows);
  // Taken from the back: low rows first.
  for (int32_t row = num_rows; row-- > 0;) free_.push_back(row);
}

std::string visual_rows::enqueue(request_id id, std::vector<visual_item> items) {
  if (leases_.contains(id)) return fmt::format("request {} already holds or awaits visual rows", id);
  remove_repeated(items);
  int64_t wanted = 0;
  for (const auto& item : items) {
    wanted += item.num_rows;
    const auto known = entries_.find(item.digest);
    if (known != entries_.end() && std::ssize(known->second.rows) != item.num_rows)
      return fmt::format("an item of {} visual rows is known with {}", item.num_rows,
                         known->second.rows.size());
  }
  if (wanted > num_rows_)
    return fmt::format("{} visual rows wanted, the pool has {}", wanted, num_rows_);
  leases_.emplace(id, row_lease{std::move(items), false});
  waiting_.push_back(id);
  return {};
}

std::vector<visual_rows::claim> visual_rows::serve() {
  std::vector<claim> claims;
  while (!waiting_.empty()) {
    auto& head = leases_.at(waiting_.front());
    if (!fits(head)) break;
    serve(head, claims);
    unready_.push_back(waiting_.front());
    waiting_.pop_front();
  }
  return claims;
}

bool visual_rows::fits(const row_lease& lease) const {
  auto available = static_cast<int64_t>(free_.size());
  for (const auto& digest : idle_) available += static_cast<int64_t>(entries_.at(digest).rows.size());
  int64_t needed = 0;
  for (const auto& item : lease.items) {
    const auto found = entries_.find(item.digest);
    if (found == entries_.end())
      needed += item.num_rows;
    else if (found->second.ready && found->second.holders == 0)
      available -= static_cast<int64_t>(found->second.rows.size());  // will be held, not evicted
  }
  return needed <= available;
}

void visual_rows::serve(row_lease& lease, std::vector<claim>& claims) {
  // First hold what is there, so that making room for the rest cannot evict it.
  for (const auto& item : lease.items) {
    const auto found = entries_.find(item.digest);
    if (found == entries_.end()) continue;
    hold(found->second);
    ++items_shared_;
  }
  for (const auto& item : lease.items) {
    if (entries_.contains(item.digest)) continue;
    auto rows = take_rows(item.num_rows);
    claims.push_back({item.digest, rows});
    entries_.emplace(item.digest, entry{std::move(rows), 1, false, idle_.end()});
    ++items_claimed_;
  }
  lease.served = true;
}

void visual_rows::hold(entry& item) {
  if (item.ready && item.holders == 0) idle_.erase(item.idle);
  ++item.holders;
}

std::vector<int32_t> visual_rows::take_rows(int32_t count) {
  while (free_.size() < static_cast<size_t>(count)) evict_oldest();
  std::vector<int32_t> rows(free_.rbegin(), free_.rbegin() + count);
  free_.resize(free_.size() - static_cast<size_t>(count));
  return rows;
}

void visual_rows::evict_oldest() {
  config::ensure(!idle_.empty(), "rows are wanted that neither are free nor can be freed");
  const auto oldest = entries_.find(idle_.front());
  free_.insert(free_.end(), oldest->second.rows.rbegin(), oldest->second.rows.rend());
  entries_.erase(oldest);
  idle_.pop_front();
}

void visual_rows::filled(const plan::media_digest& digest) {
  const auto found = entries_.find(digest);
  if (found == entries_.end() || found->second.ready) return;
  found->second.ready = true;
  if (found->second.holders == 0) found->second.idle = idle_.insert(idle_.end(), digest);
}

std::vector<visual_rows::request_id> visual_rows::failed(const plan::media_digest& digest) {
  const auto found = entries_.find(digest);
  if (found == entries_.end() || found->second.ready) return {};
  std::vector<request_id> holders;
  for (const auto& [id, lease] : leases_) {
    const auto same = [&](const visual_item& held) { return held.digest == digest; };
    if (lease.served && std::any_of(lease.items.begin(), lease.items.end(), same))
      holders.push_back(id);
  }
  std::sort(holders.begin(), holders.end());
  for (const auto id : holders) release(id);
  free_.insert(free_.end(), found->second.rows.rbegin(), found->second.rows.rend());
  entries_.erase(found);
  return holders;
}

std::vector<visual_rows::request_id> visual_rows::take_ready() {
  std::vector<request_id> ready;
  for (const auto id : unready_) {
    const auto& items = leases_.at(id).items;
    const auto is_ready = [&](const visual_item& held) { return entries_.at(held.digest).ready; };
    if (std::all_of(items.begin(), items.end(), is_ready)) ready.push_back(id);
  }
  for (const auto id : ready) erase_id(unready_, id);
  return ready;
}

const std::vector<int32_t>* visual_rows::rows_of(request_id id,
                                                 const plan::media_digest& digest) const {
  const auto found = leases_.find(id);
  if (found == leases_.end() || !found->second.served) return nullptr;
  for (const auto& item : found->second.items)
    if (item.digest == digest) return &entries_.at(digest).rows;
  return nullptr;
}

void visual_rows::release(request_id id) {
  const auto found = leases_.find(id);
  if (found == leases_.end()) return;
  if (found->second.served) {
    for (const auto& item : found->second.items) drop_hold(item.digest);
    erase_id(unready_, id);
  } else {
    erase_id(waiting_, id);
  }
  leases_.erase(found);
}

void visual_rows::drop_hold(const plan::media_digest& digest) {
  auto& item = entries_.at(digest);
  --item.holders;
  // Rows still being filled stay until they are: the encoder writes into them.
  if (item.ready && item.holders == 0) item.idle = idle_.insert(idle_.end(), digest);
}

visual_rows::statistics visual_rows::totals() const {
  statistics totals{num_rows_, 0, 0, items_claimed_, items_shared_};
  for (const auto& [digest, item] : entries_) {
    const bool cached = item.ready && item.holders == 0;
    (cached ? totals.cached : totals.held) += static_cast<int32_t>(item.rows.size());
  }
  return totals;
}

std::string visual_rows::check() const {
  const auto counted = totals();
  const auto free = static_cast<int32_t>(free_.size());
  if (free + counted.held + counted.cached != num_rows_)
    return fmt::format("{} free + {} held + {} cached visual rows, expected {}", free, counted.held,
                       counted.cached, num_rows_);
  std::vector<int32_t> owners(static_cast<size_t>(num_rows_), 0);
  for (const auto row : free_) ++owners[static_cast<size_t>(row)];
  std::unordered_map<plan::media_digest, int32_t, media_digest_hash> holders;
  for (const auto& [id, lease] : leases_)
    if (lease.served)
      for (const auto& item : lease.items) ++holders[item.digest];
  for (const auto& [digest, item] : entries_) {
    for (const auto row : item.rows) ++owners[static_cast<size_t>(row)];
    if (item.holders != holders[digest])
      return fmt::format("an item counts {} holders, but {} requests hold it", item.holders,
                         holders[digest]);
  }
  for (size_t row = 0; row < owners.size(); ++row)
    if (owners[row] != 1) return fmt::format("visual row {} has {} owners", row, owners[row]);
  return {};
}

}  // namespace troupe::actors
