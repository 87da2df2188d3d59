#include "actors/http/event_inbox.hpp"

#include <boost/asio/post.hpp>

namespace troupe::http {

event_inbox::event_inbox(std::shared_ptr<boost::asio::io_context> io, reader read)
    : io_(std::move(io)), read_(std::move(read)) {}

event_inbox::~event_inbox() {
  for (node* current = newest_.load(); current != nullptr;)
    delete std::exchange(current, current->next);
}

void event_inbox::push(caf::message event) {
  auto* added = new node{std::move(event), newest_.load(std::memory_order_relaxed)};
  while (!newest_.compare_exchange_weak(added->next, added, std::memory_order_release,
                                        std::memory_order_relaxed)) {
  }
  if (added->next == nullptr)
    boost::asio::post(*io_, [self = shared_from_this()] { self->drain(); });
}

event_inbox::node* event_inbox::reversed(node* newest) {
  node* oldest = nullptr;
  while (newest != nullptr) {
    node* older = newest->next;
    newest->next = oldest;
    oldest = std::exchange(newest, older);
  }
  return oldest;
}

void event_inbox::drain() {
  node* current = reversed(newest_.exchange(nullptr, std::memory_order_acquire));
  while (current != nullptr) {
    const std::unique_ptr<node> taken(std::exchange(current, current->next));
    if (read_) read_(taken->event);
  }
}

}  // namespace troupe::http
