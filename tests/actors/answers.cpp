#include "answers.hpp"

#include <caf/send.hpp>

#include <algorithm>
#include <utility>

namespace troupe::testing {

client::client(caf::actor_system& system, actors::gateway_actor gateway)
    : self_(system), gateway_(std::move(gateway)) {}

void client::submit(std::shared_ptr<const actors::completion_request> request) {
  answers_[request->id];
  self_->send(gateway_, actors::submit_request{std::move(request), caf::actor_cast<caf::actor>(self_)});
}

void client::cancel(actors::request_id id) { self_->send(gateway_, actors::cancel_request{id}); }

void client::end(actors::request_id id, ending how, int32_t status, std::string code,
                 std::string message) {
  auto& answer = answers_[id];
  if (answer.ends++ > 0) return;
  answer.end = how;
  answer.http_status = status;
  answer.code = std::move(code);
  answer.message = std::move(message);
}

bool client::wait(std::chrono::milliseconds timeout,
                  const std::function<void(actors::request_id, const answer&)>& after_event) {
  const auto deadline = std::chrono::steady_clock::now() + timeout;
  const auto all_ended = [this] {
    return std::all_of(answers_.begin(), answers_.end(),
                       [](const auto& item) { return item.second.ends > 0; });
  };
  bool in_time = true;
  while (!all_ended() && in_time) {
    actors::request_id changed = 0;
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        deadline - std::chrono::steady_clock::now());
    self_->receive(
        [&](const actors::text_delta& delta) {
          auto& answer = answers_[changed = delta.id];
          answer.events_after_end += answer.ends;
          answer.text += delta.text;
          for (const auto& token : delta.tokens) answer.tokens.push_back(token.token);
        },
        [&](const actors::request_finished& event) {
          end(changed = event.id, ending::finished, 200, {}, {});
          answers_[event.id].finished = event;
        },
        [&](const actors::request_rejected& event) {
          end(changed = event.id, ending::rejected, event.http_status, event.code, event.message);
        },
        [&](const actors::request_failed& event) {
          end(changed = event.id, ending::failed, event.http_status, event.code, event.message);
        },
        [&](const actors::request_cancelled& event) {
          end(changed = event.id, ending::cancelled, 499, {}, {});
        },
        caf::after(std::max(left, std::chrono::milliseconds{0})) >> [&] { in_time = false; });
    if (in_time && after_event) after_event(changed, answers_[changed]);
  }
  return in_time;
}

}  // namespace troupe::testing
