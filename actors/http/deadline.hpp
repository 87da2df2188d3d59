#pragma once

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include <chrono>
#include <cstdint>
#include <memory>

namespace troupe::http {

/// Bounds what is pending on a socket: when time is up, its operations are cancelled. One at a time
/// per connection; re-arming replaces the former bound.
class deadline {
 public:
  explicit deadline(boost::asio::ip::tcp::socket& socket)
      : socket_(socket), timer_(socket.get_executor()), round_(std::make_shared<uint64_t>(0)) {}
  ~deadline() { disarm(); }
  deadline(const deadline&) = delete;
  deadline& operator=(const deadline&) = delete;

  void arm(std::chrono::milliseconds after) {
    expired_ = false;
    timer_.expires_after(after);
    // The handler may be queued already when the round ends: it then finds another round.
    timer_.async_wait([this, current = round_, armed = ++*round_](boost::system::error_code fault) {
      if (fault || *current != armed) return;
      expired_ = true;
      socket_.cancel(fault);
    });
  }
  void disarm() {
    ++*round_;
    timer_.cancel();
  }
  bool expired() const { return expired_; }

 private:
  boost::asio::ip::tcp::socket& socket_;
  boost::asio::steady_timer timer_;
  std::shared_ptr<uint64_t> round_;
  bool expired_ = false;
};

}  // namespace troupe::http
