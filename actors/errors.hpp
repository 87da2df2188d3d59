#pragma once

#include <caf/atom.hpp>
#include <caf/error.hpp>
#include <caf/fwd.hpp>
#include <caf/make_message.hpp>
#include <caf/result.hpp>

#include <cstdint>
#include <string>
#include <utility>

namespace troupe::actors {

/// Why an actor could not do what a message asked. Code 0 is CAF's "no error".
enum class engine_error : uint8_t {
  none = 0,
  device_failed = 1,      // gpu::error: this rank's device or memory
  peer_lost = 2,          // a collective was left: a peer is late, dead or the group was aborted
  plan_refused = 3,       // a step plan that this rank will not run
  not_open = 4,           // a step before the shard was opened
  bad_configuration = 5,  // config::error
  media_failed = 6,       // visual rows could not be made
  refused = 7,            // a peer that did not prove who it is
  internal = 8,           // an exception nobody expected
  device_lost = 9,        // gpu::device_lost: nothing runs on the device any more in that process
};

/// The category of our errors; rendered by `render_engine_error`.
inline constexpr caf::atom_value engine_error_category = caf::atom("troupe");

caf::error make_error(engine_error code);
/// The same with the text that tells what was found and what was expected. The text crosses processes.
caf::error make_error(engine_error code, std::string text);

/// "plan refused: step 7 of epoch 1, expected epoch 2". What CAF prints for our category.
std::string render_engine_error(uint8_t code, caf::atom_value, const caf::message& context);

/// The whole text of any error, CAF's own included.
std::string describe(const caf::error& failure);
/// Whether `failure` is ours with this code.
bool is(const caf::error& failure, engine_error code);

/// The exception being handled as our error: the one translation from exceptions to caf::error.
caf::error current_error();

/// Runs `work` and turns whatever it throws into an error reply; an exception that left a handler would
/// end the actor, and its text would be lost to the requester.
template <class T, class Work>
caf::result<T> guarded(Work&& work) {
  try {
    return std::forward<Work>(work)();
  } catch (...) {
    return current_error();
  }
}

}  // namespace troupe::actors
