#include "actors/http/server_context.hpp"

#include "actors/http/connection.hpp"

#include <algorithm>
#include <vector>

namespace troupe::http {

bool connection_table::add(const std::shared_ptr<connection>& added) {
  const auto& address = added->address();
  const auto known = per_address_.find(address);
  const bool address_full = known != per_address_.end() && known->second >= per_address_max_;
  if (address_full && !close_longest_waiting(address)) return false;
  if (!address_full && all_.size() >= total_max_ && !close_longest_waiting()) return false;
  ++per_address_[address];
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

bool connection_table::close_waiting(std::list<connection*>::iterator which) {
  if (which == waiting_.end()) return false;
  auto* closed = *which;
  end_waiting(*closed);
  closed->close();
  return true;
}

bool connection_table::close_longest_waiting() {
  return close_waiting(waiting_.begin());
}

bool connection_table::close_longest_waiting(const boost::asio::ip::address& from) {
  return close_waiting(std::find_if(waiting_.begin(), waiting_.end(), [&](const auto* waiting) {
    return waiting->address() == from;
  }));
}

void connection_table::close_all_waiting() {
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
