#pragma once

#include "actors/messages.hpp"
#include "config/model_config.hpp"
#include "support/reference_set.hpp"

#include <memory>

namespace troupe::testing {

/// A reference case as a client would send it: greedy, as many tokens as the reference generated, going on
/// after an end token if the reference did.
std::shared_ptr<actors::completion_request> request_of(const reference_case& example,
                                                       const config::preprocessor_config& config);

}  // namespace troupe::testing
