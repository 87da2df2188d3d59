#pragma once

#include "actors/messages.hpp"

#include <caf/actor.hpp>
#include <caf/actor_system.hpp>
#include <caf/scoped_actor.hpp>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

namespace troupe::testing {

enum class ending : uint8_t { none, finished, rejected, failed, cancelled };

/// What a client saw of one request.
struct answer {
  std::string text;
  std::vector<int32_t> tokens;
  ending end = ending::none;
  int32_t ends = 0;              // terminal messages: must become 1
  int32_t events_after_end = 0;  // must stay 0
  actors::request_finished finished;
  int32_t http_status = 0;
  std::string code;
  std::string message;
};

/// A client outside the actors: submits requests and collects what comes back.
class client {
 public:
  client(caf::actor_system& system, actors::gateway_actor gateway);

  void submit(std::shared_ptr<const actors::completion_request> request);
  void cancel(actors::request_id id);
  /// Receives events until all submitted requests ended, or for `timeout`. `after_event` sees every answer
  /// that changed.
  bool wait(std::chrono::milliseconds timeout,
            const std::function<void(actors::request_id, const answer&)>& after_event = {});

  const answer& of(actors::request_id id) const { return answers_.at(id); }
  const std::map<actors::request_id, answer>& answers() const { return answers_; }

 private:
  void end(actors::request_id id, ending how, int32_t status, std::string code, std::string message);

  caf::scoped_actor self_;
  actors::gateway_actor gateway_;
  std::map<actors::request_id, answer> answers_;
};

}  // namespace troupe::testing
