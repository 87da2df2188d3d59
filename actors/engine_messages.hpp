#pragma once

#include "actors/messages.hpp"
#include "actors/plan_codec.hpp"
#include "actors/scheduling/slice_pacing.hpp"
#include "actors/scheduling/step_planner.hpp"
#include "config/engine_config.hpp"
#include "gpu/backend.hpp"
#include "gpu/graph.hpp"
#include "gpu/tensor_view.hpp"
#include "model/plan/prompt.hpp"
#include "model/plan/step_plan.hpp"
#include "model/vision/image_processor.hpp"
#include "transport/symmetric_arena.hpp"

#include <caf/allowed_unsafe_message_type.hpp>
#include <caf/error.hpp>
#include <caf/meta/load_callback.hpp>
#include <caf/meta/type_name.hpp>
#include <caf/sec.hpp>
#include <caf/typed_actor.hpp>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

/// Messages between the engine's own actors. Those a shard takes or gives cross processes: they have an
/// `inspect`. The others carry shared immutable data and never leave the process.
namespace troupe::actors {

/// How far start-up is.
struct loading_progress {
  std::string phase;          // "loading weights", "capturing graphs"
  double percent = 0;         // of everything until ready
  int64_t done = 0;           // of this phase
  int64_t total = 0;
  bool counts_bytes = false;  // whether done and total are bytes (else items)
};

/// A request refused for a mistake of the client's; becomes request_rejected.
struct refusal {
  int32_t http_status = 400;
  std::string code;
  std::string message;
};

// -- tokenizer --------------------------------------------------------------------------------------------

/// Renders and encodes a request's conversation (or checks its raw ids).
struct prepare_prompt {
  std::shared_ptr<const completion_request> request;
};
struct prompt_prepared {
  std::shared_ptr<const plan::prompt> prompt;  // span digests are zero still
  std::optional<refusal> refused;
};

// -- vision -----------------------------------------------------------------------------------------------

/// Decodes and processes one item of a request: work for a thread of its own.
struct process_media {
  std::shared_ptr<const completion_request> request;
  int32_t media_index = 0;
  bool digest_only = false;  // pixels are not needed if the digest is known without them
};
struct media_processed {
  plan::media_digest digest{};
  std::shared_ptr<const model::patch_rows> patches;  // may be null if only the digest was asked for
  std::optional<refusal> refused;
};

/// Digests of all media of a request; decodes what was never seen.
struct prepare_media {
  std::shared_ptr<const completion_request> request;
};
struct media_prepared {
  std::vector<plan::media_digest> digests;  // [media]
  std::optional<refusal> refused;
};

/// A lease on the visual rows of a request's spans. Answered when all of them are filled; `release_rows`
/// may come at any time, also instead of an answer.
struct acquire_rows {
  request_id id = 0;
  std::shared_ptr<const completion_request> request;
  std::shared_ptr<const plan::prompt> prompt;  // with digests
};
struct rows_acquired {
  std::vector<int32_t> pool_rows;  // concatenated in span order
};
struct release_rows {
  request_id id = 0;
};

struct get_vision_statistics {};
struct vision_statistics {
  int64_t rows_total = 0;
  int64_t rows_used = 0;  // held by requests or being filled
  int64_t images_encoded = 0;
  int64_t images_reused = 0;
  int64_t graph_captures_after_start = 0;
  int64_t arena_allocations_after_start = 0;
  scheduling::pacing_statistics pacing;  // of the tower that answered last
};

// -- scheduler --------------------------------------------------------------------------------------------

/// A prepared request; answered with the planner's admission_result.
struct schedule_request {
  std::shared_ptr<const completion_request> request;
  std::shared_ptr<const plan::prompt> prompt;  // with digests
  plan::sampling_params sampling;              // max_tokens resolved
  scheduling::time_point deadline;
};

struct get_scheduler_statistics {};
struct scheduler_statistics {
  scheduling::planner_statistics planner;
  scheduling::verification_statistics verification;
  int64_t graph_captures_after_start = 0;     // the most of any shard's process
  int64_t arena_allocations_after_start = 0;
};

// -- detokenizer ------------------------------------------------------------------------------------------

/// Whoever can end a request early.
using request_canceller = caf::typed_actor<caf::reacts_to<cancel_request>>;

/// Tokens of this request follow. `canceller` is told when a stop text was met.
struct open_stream {
  std::shared_ptr<const completion_request> request;
  request_canceller canceller;
};
/// What one step, or one decision, gave: token_generated and request_ended in order.
struct generation_progress {
  std::vector<scheduling::token_generated> tokens;
  std::vector<scheduling::request_ended> ended;  // after all of the tokens
};

// -- shard: everything below crosses processes --------------------------------------------------------

/// Where a rank's weights come from: a checkpoint folder, or random ones of a named shape.
struct weight_source {
  std::string folder;
  std::string shape;  // used when `folder` is empty
  uint64_t seed = 0;
};

/// All that a rank needs for its life. Descriptors are numbers of the shard's own process.
struct shard_options {
  weight_source weights;
  plan::plan_limits limits;
  gpu::dtype activation = gpu::dtype::bf16;
  int32_t tp_rank = 0;
  int32_t tp_size = 1;
  uint64_t epoch = 1;
  bool eager = false;
  gpu::backend_options backend;
  int64_t collective_timeout_ms = 0;
  std::vector<transport::lane_request> lanes;
  std::vector<int> symmetric_descriptors;  // [tp_size]
  int visual_pool_descriptor = -1;
  std::vector<uint8_t> token_mask;         // [vocab] 0 = never sampled
  /// Opens without peers, on the memory of an aborted group, and waits to join another.
  bool alone = false;
};

/// Loads weights, reserves memory, captures graphs. May take minutes; tells the sender how far it is.
struct open_shard {
  shard_options options;
};
struct shard_opened {
  gpu::digest128 graphs{};  // of all manifests' shapes: equal on all ranks of a group
};
struct shard_progress {
  int32_t tp_rank = 0;
  loading_progress progress;
};

/// To a shard that is open: leave the old group, which must be aborted, for that of `epoch`, with weights,
/// graphs and memory. Steps of the old one that it has not begun are refused. Answered as open_shard.
struct join_group {
  uint64_t epoch = 0;
  std::vector<int> symmetric_descriptors;  // [tp_size + 1], numbers of the shard's own process
};

/// What a shard does with a plan.
enum class step_order : uint8_t {
  replay,    // the bucket's graph
  eager,     // the same kernels without the graph
  verified,  // the graph, then the same kernels without it: what these gave is the result
  recheck,   // the plan is the one that ran last: the same kernels once more, without the graph
};

/// All that a vision tower needs for its life. Descriptors are numbers of the tower's own process.
struct vision_tower_options {
  weight_source weights;
  gpu::dtype activation = gpu::dtype::bf16;
  bool eager = false;
  int32_t max_patches = 0;   // per run, and of a slot of staging memory
  int32_t max_segments = 0;  // temporal groups per run
  int32_t slice_microseconds = 0;  // of a run, between two steps; 0: whole runs, beside steps
  gpu::backend_options backend;
  int32_t pool_rows = 0;
  int visual_pool_descriptor = -1;
  int staging_descriptor = -1;
};

/// Loads weights, reserves memory, captures graphs.
struct open_vision_tower {
  vision_tower_options options;
};
struct vision_tower_opened {};

/// A picture, or temporal groups of a clip, and the pool rows to fill.
struct encode_job {
  model::patch_grid grid;
  std::vector<int32_t> rows;
};
/// One run of the tower. The jobs' pixels lie one after another from the start of a slot of the staging
/// memory; the slot may be filled anew once this is answered.
struct encode_media {
  int32_t slot = 0;
  std::vector<encode_job> jobs;
};
/// Others captured and allocated in the tower's process: its counters start anew with the next picture.
struct count_anew {};
struct media_encoded {
  int64_t graph_captures_after_start = 0;  // of the tower's process, since its first picture
  int64_t arena_allocations_after_start = 0;
  scheduling::pacing_statistics pacing;  // of this tower
};

/// A step for every rank. Never copied inside a process; encoded once per rank that lives in another.
struct run_step {
  std::shared_ptr<const plan::step_plan> plan;
  step_order order = step_order::replay;
};
struct step_completed {
  plan::step_result result;
  int64_t graph_captures_after_start = 0;  // of the shard's process, since its first step
  int64_t arena_allocations_after_start = 0;
  std::string difference;                  // verified, recheck: what the graph got wrong; empty: nothing
};

/// The first message a shard process takes: nothing else is answered before it.
struct open_door {
  std::string secret;
  bool with_vision_tower = false;
};

// -- supervisor -------------------------------------------------------------------------------------------

/// Starts one shard, and with it the vision tower if it is asked for, in threads or a process of their own,
/// which end with the launcher.
struct launch_shard {
  bool with_vision_tower = false;
  std::vector<int> symmetric_descriptors;  // of this process
  int visual_pool_descriptor = -1;
  int staging_descriptor = -1;
};

/// Gives the process of a shard that was launched the memory of a new group.
struct hand_over {
  std::vector<int> symmetric_descriptors;  // of this process
};
struct handed_over {
  std::vector<int> symmetric_descriptors;  // the same in the shard's process, until the next are handed over
};

/// The vision tower lives with the shard of this rank.
inline constexpr int32_t tower_rank = 0;

/// What is known about who lost a group.
enum class loss_cause : uint8_t {
  unknown,  // it may be anybody, such as where ranks disagree
  rank,     // one rank: it ended, or failed by itself
  late,     // ranks are late, maybe because they wait for one that is: those that still answer are not it
};

/// The group of `epoch`, its vision tower included, must not be used any more. Scheduler, vision encoder and
/// supervisor tell each other, whoever sees it first; of an old epoch it has no effect.
struct group_lost {
  uint64_t epoch = 0;
  std::string reason;
  bool device_lost = false;  // a device can run nothing any more in the process that used it
  loss_cause cause = loss_cause::unknown;
  int32_t rank = -1;         // of loss_cause::rank
};
/// There will be no group any more, and so no vision tower: whoever waits for one waits in vain.
struct groups_ended {
  std::string reason;
};

/// The engine's state as the supervisor sees it.
struct phase_changed {
  engine_phase phase = engine_phase::loading;
  std::string detail;         // failed: why
  loading_progress progress;  // while loading
  recovery_statistics recovery = {};
};

/// Answered once the engine is ready or failed.
struct await_ready {};
/// No new requests; those still running after `grace_ms` end as failed. Answered when none is left.
struct begin_drain {
  int64_t grace_ms = 0;
};

}  // namespace troupe::actors

// -- what never leaves the process -------------------------------------------------------------------------

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::prepare_prompt)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::prompt_prepared)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::process_media)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::media_processed)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::prepare_media)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::media_prepared)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::acquire_rows)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::rows_acquired)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::release_rows)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::get_vision_statistics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::vision_statistics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::schedule_request)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::scheduling::admission_result)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::get_scheduler_statistics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::scheduler_statistics)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::open_stream)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::generation_progress)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::launch_shard)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::hand_over)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::handed_over)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::group_lost)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::groups_ended)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::phase_changed)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::await_ready)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::begin_drain)

// -- what crosses processes -----------------------------------------------------------------------------

namespace troupe::plan {

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, digest& x) {
  return f(caf::meta::type_name("digest"), x.low, x.high);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, token_logprobs& x) {
  return f(caf::meta::type_name("token_logprobs"), x.sampled, x.top_tokens, x.top_values);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, step_result& x) {
  return f(caf::meta::type_name("step_result"), x.epoch, x.step, x.content, x.tokens, x.logprobs,
           x.elapsed_ns);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, plan_limits& x) {
  return f(caf::meta::type_name("plan_limits"), x.max_num_seqs, x.max_num_batched_tokens,
           x.max_blocks_per_sequence, x.block_size, x.num_blocks, x.visual_pool_rows,
           x.max_adjustments, x.vocab_size, x.max_model_len, x.token_buckets);
}

}  // namespace troupe::plan

namespace troupe::gpu {

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, backend_options& x) {
  return f(caf::meta::type_name("backend_options"), x.device, x.num_threads, x.cuda_device,
           x.ranks_on_device, x.background);
}

}  // namespace troupe::gpu

namespace troupe::model {

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, patch_grid& x) {
  return f(caf::meta::type_name("patch_grid"), x.t, x.height, x.width);
}

}  // namespace troupe::model

namespace troupe::scheduling {

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, pacing_statistics& x) {
  return f(caf::meta::type_name("pacing_statistics"), x.slices_issued, x.steps_passed_over);
}

}  // namespace troupe::scheduling

namespace troupe::transport {

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, lane_request& x) {
  return f(caf::meta::type_name("lane_request"), x.name, x.slot_bytes);
}

}  // namespace troupe::transport

namespace troupe::actors {

template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, loading_progress& x) {
  return f(caf::meta::type_name("loading_progress"), x.phase, x.percent, x.done, x.total,
           x.counts_bytes);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, weight_source& x) {
  return f(caf::meta::type_name("weight_source"), x.folder, x.shape, x.seed);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, shard_options& x) {
  return f(caf::meta::type_name("shard_options"), x.weights, x.limits, x.activation, x.tp_rank,
           x.tp_size, x.epoch, x.eager, x.backend, x.collective_timeout_ms, x.lanes,
           x.symmetric_descriptors, x.visual_pool_descriptor, x.token_mask, x.alone);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, open_shard& x) {
  return f(caf::meta::type_name("open_shard"), x.options);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, shard_opened& x) {
  return f(caf::meta::type_name("shard_opened"), x.graphs);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, join_group& x) {
  return f(caf::meta::type_name("join_group"), x.epoch, x.symmetric_descriptors);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, shard_progress& x) {
  return f(caf::meta::type_name("shard_progress"), x.tp_rank, x.progress);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, vision_tower_options& x) {
  return f(caf::meta::type_name("vision_tower_options"), x.weights, x.activation, x.eager,
           x.max_patches, x.max_segments, x.slice_microseconds, x.backend, x.pool_rows,
           x.visual_pool_descriptor, x.staging_descriptor);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, open_vision_tower& x) {
  return f(caf::meta::type_name("open_vision_tower"), x.options);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, vision_tower_opened&) {
  return f(caf::meta::type_name("vision_tower_opened"));
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, count_anew&) {
  return f(caf::meta::type_name("count_anew"));
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, encode_job& x) {
  return f(caf::meta::type_name("encode_job"), x.grid, x.rows);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, encode_media& x) {
  return f(caf::meta::type_name("encode_media"), x.slot, x.jobs);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, media_encoded& x) {
  return f(caf::meta::type_name("media_encoded"), x.graph_captures_after_start,
           x.arena_allocations_after_start, x.pacing);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, run_step& x) {
  std::string bytes;
  if constexpr (Inspector::reads_state)
    if (x.plan != nullptr) bytes = encode_plan(*x.plan);
  auto decode = [&]() -> caf::error {
    auto plan = decode_plan(bytes);
    if (!plan) return caf::sec::invalid_argument;
    x.plan = std::make_shared<const plan::step_plan>(*std::move(plan));
    return caf::none;
  };
  return f(caf::meta::type_name("run_step"), bytes, x.order, caf::meta::load_callback(decode));
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, step_completed& x) {
  return f(caf::meta::type_name("step_completed"), x.result, x.graph_captures_after_start,
           x.arena_allocations_after_start, x.difference);
}
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, open_door& x) {
  return f(caf::meta::type_name("open_door"), x.secret, x.with_vision_tower);
}

// -- interfaces -------------------------------------------------------------------------------------------

using tokenizer_actor =
    caf::typed_actor<caf::replies_to<prepare_prompt>::with<prompt_prepared>,
                     caf::replies_to<tokenize_text>::with<tokenized>,
                     caf::replies_to<detokenize_ids>::with<detokenized>>;

using media_worker_actor = caf::typed_actor<caf::replies_to<process_media>::with<media_processed>>;

using shard_actor = caf::typed_actor<caf::replies_to<open_shard>::with<shard_opened>,
                                     caf::replies_to<join_group>::with<shard_opened>,
                                     caf::replies_to<run_step>::with<step_completed>>;

using vision_tower_actor =
    caf::typed_actor<caf::replies_to<open_vision_tower>::with<vision_tower_opened>,
                     caf::replies_to<encode_media>::with<media_encoded>,
                     caf::reacts_to<count_anew>, caf::reacts_to<caf::tick_atom>>;

/// What lives behind a door.
struct door_opened {
  shard_actor shard;
  vision_tower_actor tower;  // null unless it was asked for
};
template <class Inspector>
typename Inspector::result_type inspect(Inspector& f, door_opened& x) {
  return f(caf::meta::type_name("door_opened"), x.shard, x.tower);
}

using shard_door_actor = caf::typed_actor<caf::replies_to<open_door>::with<door_opened>>;

/// A started shard, maybe with a vision tower, and the descriptors' numbers in their process.
struct shard_launched {
  shard_actor shard;
  vision_tower_actor tower;
  std::vector<int> symmetric_descriptors;
  int visual_pool_descriptor = -1;
  int staging_descriptor = -1;
};

using shard_launcher_actor = caf::typed_actor<caf::replies_to<launch_shard>::with<shard_launched>,
                                              caf::replies_to<hand_over>::with<handed_over>>;

/// Whoever must know that a group cannot be used any more.
using group_watcher = caf::typed_actor<caf::reacts_to<group_lost>>;

/// A group that has opened and agreed on its graphs.
struct group_ready {
  uint64_t epoch = 0;
  std::vector<shard_actor> shards;  // [tp_size]
  group_watcher watcher;
  bool graphs_kept = false;         // some shards have graphs that they had in the group before
};

/// The vision tower of a group that is ready, maybe that of the group before.
struct tower_ready {
  uint64_t epoch = 0;
  vision_tower_actor tower;
  group_watcher watcher;
};

using vision_encoder_actor =
    caf::typed_actor<caf::replies_to<prepare_media>::with<media_prepared>,
                     caf::replies_to<acquire_rows>::with<rows_acquired>,
                     caf::reacts_to<release_rows>, caf::reacts_to<tower_ready>,
                     caf::reacts_to<group_lost>, caf::reacts_to<groups_ended>,
                     caf::replies_to<get_vision_statistics>::with<vision_statistics>>;

using scheduler_actor =
    caf::typed_actor<caf::replies_to<schedule_request>::with<scheduling::admission_result>,
                     caf::reacts_to<cancel_request>, caf::reacts_to<pause_request>,
                     caf::reacts_to<resume_request>, caf::reacts_to<group_ready>,
                     caf::reacts_to<group_lost>,
                     caf::replies_to<get_scheduler_statistics>::with<scheduler_statistics>,
                     caf::reacts_to<caf::tick_atom>>;

using detokenizer_actor =
    caf::typed_actor<caf::reacts_to<open_stream>, caf::reacts_to<generation_progress>>;

using supervisor_actor =
    caf::typed_actor<caf::reacts_to<group_lost>, caf::reacts_to<shard_progress>,
                     caf::reacts_to<caf::tick_atom>>;

/// The actors a gateway hands its requests to. While it does not know them, it is loading.
struct engine_assembled {
  tokenizer_actor tokenizer;
  vision_encoder_actor vision_encoder;
  scheduler_actor scheduler;
  supervisor_actor supervisor;
};

/// The gateway as the engine's own actors see it.
using inner_gateway_actor =
    gateway_actor::extend<caf::reacts_to<engine_assembled>, caf::reacts_to<text_delta>,
                          caf::reacts_to<request_finished>, caf::reacts_to<request_failed>,
                          caf::reacts_to<request_cancelled>, caf::reacts_to<phase_changed>,
                          caf::replies_to<await_ready>::with<engine_status>,
                          caf::replies_to<begin_drain>::with<engine_status>,
                          caf::reacts_to<caf::tick_atom>>;

}  // namespace troupe::actors

CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::shard_launched)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::group_ready)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::tower_ready)
CAF_ALLOW_UNSAFE_MESSAGE_TYPE(troupe::actors::engine_assembled)
