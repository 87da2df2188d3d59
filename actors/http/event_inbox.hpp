#pragma once

#include <boost/asio/io_context.hpp>
#include <caf/message.hpp>

#include <atomic>
#include <functional>
#include <memory>
#include <utility>

namespace troupe::http {

/// Messages from many actor threads to the network thread: pushing is lock-free and wakes the
/// reader only when the inbox was empty, so a step that brings tokens to a hundred streams costs
/// one wake-up. Order is kept per sender. Keeps the io_context alive, so that a late push is
/// harmless.
class event_inbox : public std::enable_shared_from_this<event_inbox> {
 public:
  using reader = std::function<void(const caf::message&)>;

  /// `read` is called on `io`, until close().
  event_inbox(std::shared_ptr<boost::asio::io_context> io, reader read);
  ~event_inbox();

  /// From any thread.
  void push(caf::message event);
  /// On the reader's thread: nothing more is read.
  void close() { read_ = nullptr; }

 private:
  struct node {
    caf::message event;
    node* next = nullptr;
  };

  void drain();
  /// Everything pushed so far, oldest first.
  static node* reversed(node* newest);

  std::shared_ptr<boost::asio::io_context> io_;
  reader read_;
  std::atomic<node*> newest_{nullptr};
};

}  // namespace troupe::http
