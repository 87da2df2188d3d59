#include "actors/http/engine_link.hpp"

#include "actors/http/event_inbox.hpp"

#include <boost/asio/async_result.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <caf/actor_companion.hpp>
#include <caf/event_based_actor.hpp>
#include <caf/send.hpp>

#include <utility>
#include <vector>

namespace troupe::http {

namespace {

namespace asio = boost::asio;

// The gateway answers from memory: a probe must not wait for longer.
constexpr std::chrono::milliseconds status_timeout{5'000};
// Texts are of megabytes, and one waits behind another.
constexpr std::chrono::milliseconds text_timeout{60'000};

/// Asks `gateway` from a short-lived actor of its own and resumes the caller on `io` with the
/// reply.
template <class Reply, class Question>
asio::awaitable<std::optional<Reply>> ask(caf::actor_system& system,
                                          std::shared_ptr<asio::io_context> io,
                                          actors::gateway_actor gateway, Question question,
                                          std::chrono::milliseconds timeout) {
  if (!gateway) co_return std::nullopt;
  auto initiate = [&](auto handler) {
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    auto resume = [io, shared](std::optional<Reply> reply) {
      asio::post(*io, [shared, reply = std::move(reply)]() mutable {
        std::move (*shared)(std::move(reply));
      });
    };
    // CAF dereferences a null pointer when an actor's function has no arguments: so they are not
    // captured.
    const auto asker = [](caf::event_based_actor* self, const actors::gateway_actor& engine,
                          const Question& asked, std::chrono::milliseconds bound,
                          const decltype(resume)& reply_to) {
      self->request(engine, bound, asked)
          .then([reply_to](Reply& reply) { reply_to(std::move(reply)); },
                [reply_to](caf::error&) { reply_to(std::nullopt); });
    };
    system.spawn(asker, gateway, question, timeout, resume);
  };
  co_return co_await asio::async_initiate<const asio::use_awaitable_t<>,
                                          void(std::optional<Reply>)>(initiate,
                                                                      asio::use_awaitable);
}

caf::actor_companion* companion(const caf::actor& sink) {
  return caf::actor_cast<caf::actor_companion*>(sink);
}

}  // namespace

engine_link::engine_link(caf::actor_system& system, std::shared_ptr<asio::io_context> io)
    : system_(system),
      io_(std::move(io)),
      inbox_(std::make_shared<event_inbox>(io_,
                                           [this](const caf::message& event) { dispatch(event); })),
      sink_(system.spawn<caf::actor_companion>()) {
  companion(sink_)->on_enqueue([inbox = inbox_](caf::mailbox_element_ptr element) {
    inbox->push(element->move_content_to_message());
  });
}

engine_link::~engine_link() {
  inbox_->close();
  // Ends the actor at once: the engine may hold on to its handle for a while.
  companion(sink_)->on_enqueue(nullptr);
  companion(sink_)->cleanup(caf::exit_reason::normal, nullptr);
}

void engine_link::attach(actors::gateway_actor gateway) {
  gateway_ = std::move(gateway);
  companion(sink_)->monitor(gateway_);
}

void engine_link::submit(std::shared_ptr<const actors::completion_request> request,
                         engine_listener& listener) {
  listeners_[request->id] = &listener;
  caf::anon_send(gateway_, actors::submit_request{std::move(request), sink_});
}

void engine_link::cancel(actors::request_id id) {
  if (alive()) caf::anon_send(gateway_, actors::cancel_request{id});
}

void engine_link::pause(actors::request_id id) {
  if (alive()) caf::anon_send(gateway_, actors::pause_request{id});
}

void engine_link::resume(actors::request_id id) {
  if (alive()) caf::anon_send(gateway_, actors::resume_request{id});
}

void engine_link::forget(actors::request_id id) {
  listeners_.erase(id);
}

/// Events of forgotten requests come late and have no effect.
void engine_link::dispatch(const caf::message& event) {
  const auto deliver = [&]<class Event>(bool last, void (engine_listener::*hear)(const Event&)) {
    if (!event.match_elements<Event>()) return false;
    const auto& content = event.get_as<Event>(0);
    const auto found = listeners_.find(content.id);
    if (found == listeners_.end()) return true;
    auto* listener = found->second;
    if (last) listeners_.erase(found);
    (listener->*hear)(content);
    return true;
  };
  if (event.match_elements<caf::down_msg>()) return engine_lost();
  deliver(false, &engine_listener::on_text) || deliver(true, &engine_listener::on_finished) ||
      deliver(true, &engine_listener::on_rejected) || deliver(true, &engine_listener::on_failed) ||
      deliver(true, &engine_listener::on_cancelled);
}

void engine_link::engine_lost() {
  gateway_ = nullptr;
  const auto orphans = std::exchange(listeners_, {});
  for (const auto& [id, listener] : orphans)
    listener->on_failed({id, 500, "engine_error", "the engine ended before the answer did"});
}

asio::awaitable<std::optional<actors::engine_status>> engine_link::status() {
  return ask<actors::engine_status>(system_, io_, gateway_, actors::get_status{}, status_timeout);
}

asio::awaitable<std::optional<actors::tokenized>> engine_link::tokenize(
    actors::tokenize_text question) {
  return ask<actors::tokenized>(system_, io_, gateway_, std::move(question), text_timeout);
}

asio::awaitable<std::optional<actors::detokenized>> engine_link::detokenize(
    actors::detokenize_ids question) {
  return ask<actors::detokenized>(system_, io_, gateway_, std::move(question), text_timeout);
}

}  // namespace troupe::http
