#pragma once

#include "actors/http/served_model.hpp"
#include "actors/messages.hpp"

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace troupe::tests {

/// What a test may look at and change while the fake engine runs.
struct fake_engine_state {
  std::atomic<actors::engine_phase> phase{actors::engine_phase::ready};
  std::atomic<int32_t> running{0};
  std::atomic<int32_t> submitted{0};
  std::atomic<int32_t> cancelled{0};
  std::atomic<int32_t> paused{0};
  std::atomic<bool> released{false};  // held answers may go on
};

/// An engine without a model: its tokens are the bytes of a text that the prompt determines. The
/// last user text may hold directives in brackets:
///   [say TEXT]      the answer (default: a sentence about the prompt and its pictures)
///   [random]        an answer that depends on the seed alone
///   [repeat N]      the answer N times
///   [delay MS]      time between tokens
///   [burst N]       tokens per event
///   [hold]          goes on after the first token only when the test has released it
///   [silent]        never answers
///   [reject STATUS] [fail STATUS]   refuses at once; fails after the first token
actors::gateway_actor spawn_fake_gateway(caf::actor_system& system,
                                         std::shared_ptr<fake_engine_state> state);

/// The model that goes with it: 256 tokens, "fake" and "alias" as names.
http::served_model fake_model();

/// An actor system for tests.
struct test_system_config : caf::actor_system_config {
  test_system_config();
};

}  // namespace troupe::tests
