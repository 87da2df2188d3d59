#pragma once

#include "actors/scheduling/slice_pacing.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "actors/scheduling/verification_schedule.hpp"
#include "model/plan/prompt.hpp"
#include "model/plan/sampling_params.hpp"
#include "model/plan/step_plan.hpp"
#include "model/tokenizer/chat.hpp"
#include "model/vision/media.hpp"

#include <caf/actor.hpp>
#include <caf/allowed_unsafe_message_type.hpp>
#include <caf/meta/type_name.hpp>
#include <caf/typed_actor.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

/// Every message between actors. Commands are verbs, facts are past. Types that cross a process
/// boundary have an `inspect`; those that never leave the process are marked unsafe and carry shared
/// immutable data. Behaviours live in <role>_actor.cpp.
namespace troupe::actors {

using scheduling::request_id;

// -- client side: gateway's HTTP sessions, `chat`, `generate`, embedding programs ------------------------

/// A validated completion request: one choice (n > 1 is n requests that share prompt and media).
struct completion_request {
  request_id id = 0;
  model::chat_prompt chat;
  std::vector<int32_t> prompt_ids;        // used instead of `chat` when not empty (no media)
  std::vector<model::media_item> media;
  plan::sampling_params sampling;         // max_tokens 0: the rest of the context
  std::vector<std::string> stop;          // texts, at most 16
  bool include_stop_text = false;
  bool skip_special_tokens = true;
};

/// Submit to the gateway actor. Events go to `sink`, in order: any number of text_delta, then exactly one
/// of request_finished, request_rejected, request_failed, request_cancelled.
struct submit_request {
  std::shared_ptr<const completion_request> request;
  caf::actor sink;
};
struct cancel_request {
  request_id id = 0;
};
/// The client does not take what it was sent: nothing more is generated for it, and it holds no place among
/// those that run, until it is resumed. A few tokens may still be on their way. Deadlines stay in force.
struct pause_request {
  request_id id = 0;
};
struct resume_request {
  request_id id = 0;
};

/// One or more tokens that became text. `text` is whole UTF-8 and may be empty (held back, special).
struct delta_token {
  int32_t token = 0;
  std::string bytes;  // of this token alone, may be half a character
  plan::token_logprobs logprobs;
};
struct text_delta {
  request_id id = 0;
  std::string text;
  std::vector<delta_token> tokens;
  scheduling::usage_counts usage = {};  // up to here, tokens included whose text is held back
};
enum class finish_reason : uint8_t { stop, length };
struct request_finished {
  request_id id = 0;
  finish_reason reason = finish_reason::stop;
  scheduling::usage_counts usage;
};
/// Refused before any work: the client's mistake or overload. `code` as in the API's error table.
struct request_rejected {
  request_id id = 0;
  int32_t http_status = 400;
  std::string code;
  std::string message;
  int64_t retry_after_ms = 0;  // 429 and 503
};
/// Accepted but could not be completed.
struct request_failed {
  request_id id = 0;
  int32_t http_status = 500;  // 408 for a passed deadline
  std::string code;
  std::string message;
};
struct request_cancelled {
  request_id id = 0;
};

}  // namespace troupe::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::submit_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::cancel_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::pause_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::resume_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::text_delta)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::request_finished)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::request_rejected)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::request_failed)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::request_cancelled)

namespace troupe::actors {

// -- state of the engine ------------------------------------------------------------------------------------

enum class engine_phase : uint8_t { loading, ready, draining, failed };

/// How tensor-parallel groups came back after losses.
struct recovery_statistics {
  int64_t groups_lost = 0;
  int64_t ranks_kept = 0;      // with their process, weights and graphs, in the next group
  int64_t ranks_replaced = 0;  // started anew
  double last_seconds = 0;     // from the last loss to the next group's being ready
};

struct get_status {};
struct engine_status {
  engine_phase phase = engine_phase::loading;
  std::string detail;        // "loading weights", "capturing graphs", ...
  double percent = 0;        // of everything until ready
  int64_t done = 0;          // of the phase that `detail` names
  int64_t total = 0;
  bool counts_bytes = false; // whether done and total are bytes (else items)
  int64_t max_model_len = 0;
  scheduling::planner_statistics planner;
  int64_t vision_rows_total = 0, vision_rows_used = 0;
  int64_t images_encoded = 0, images_reused = 0;
  int64_t graph_captures_after_start = 0, arena_allocations_after_start = 0;
  scheduling::verification_statistics verification;
  recovery_statistics recovery;
  scheduling::pacing_statistics vision_pacing;
};

struct tokenize_text {
  std::string text;                                        // plain text, or
  std::shared_ptr<const completion_request> conversation;  // a chat to render (media allowed)
};
struct tokenized {
  std::vector<int32_t> ids;
  std::string error;  // empty: fine
};
struct detokenize_ids {
  std::vector<int32_t> ids;
};
struct detokenized {
  std::string text;
  std::string error;
};

}  // namespace troupe::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::get_status)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::engine_status)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::tokenize_text)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::tokenized)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::detokenize_ids)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::detokenized)

namespace troupe::actors {

/// The engine's front door: everything that serves clients talks to this interface alone.
using gateway_actor =
    caf::typed_actor<caf::reacts_to<submit_request>, caf::reacts_to<cancel_request>,
                     caf::reacts_to<pause_request>, caf::reacts_to<resume_request>,
                     caf::replies_to<get_status>::with<engine_status>,
                     caf::replies_to<tokenize_text>::with<tokenized>,
                     caf::replies_to<detokenize_ids>::with<detokenized>>;

}  // namespace troupe::actors
