#include "actors/http/server_context.hpp"

#include "actors/http/connection.hpp"

#include <algorithm>
#include <vector>

namespace troupe::http {

bool connection_table::add(const std::shared_ptr<connection>& added) {
  auto& from_address = per_address_[added->address()];
  const bool full = all_.size() >= total_max_;
  if (from_address >= per_address_max_ || (full && !close_longest_waiting())) {
    if (from_address == 0) per_address_.erase(added->address());
    return false;
  }
  ++from_address;
  all_.insert(added);
  return true;
}

void connection_table::remove(const std::shared_ptr<connection>& removed) {
  end_waiting(*removed);
  if (all_.erase(removed) == 0) return;
  const auto from_address = per_address_.find(removed->address());
  if (--from_address->second == 0) per_address_.erase(from_address);
}

void connection_table::begin_waiting(connection& waiting) {
  waiting_.push_back(&waiting);
  waiting.set_place(std::prev(waiting_.end()));
}

void connection_table::end_waiting(connection& waiting) {
  if (const auto place = waiting.take_place()) waiting_.erase(*place);
}

bool connection_table::close_longest_waiting() {
  if (waiting_.empty()) return false;
  waiting_.front()->close();
  waiting_.front()->take_place();
  waiting_.pop_front();
  return true;
}

void connection_table::close_waiting() {
  while (close_longest_waiting()) {
  }
}

void connection_table::close_all() {
  const std::vector<std::shared_ptr<connection>> all(all_.begin(), all_.end());
  for (const auto& each : all) each->close();
}

server_context::server_context(caf::actor_system& system, server_options chosen)
    : options(std::move(chosen)),
      io(std::make_shared<boost::asio::io_context>(1)),
      link(system, io),
      keys(options.http.api_keys),
      connections(static_cast<size_t>(options.http.max_connections),
                  std::max<size_t>(1, static_cast<size_t>(options.http.max_connections *
                                                          options.address_share))) {}

bool body_charge::raise_to(int64_t bytes) {
  if (bytes <= bytes_) return true;
  const auto budget = context_.options.http.max_body_bytes * context_.options.body_budget_bodies;
  if (context_.body_bytes + bytes - bytes_ > budget) return false;
  context_.body_bytes += bytes - bytes_;
  bytes_ = bytes;
  return true;
}

}  // namespace troupe::http
