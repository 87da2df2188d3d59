#include "actors/system.hpp"

#include "actors/detokenizer_actor.hpp"
#include "actors/engine_messages.hpp"
#include "actors/errors.hpp"
#include "actors/gateway_actor.hpp"
#include "actors/media_worker_actor.hpp"
#include "actors/placement.hpp"
#include "actors/scheduler_actor.hpp"
#include "actors/shard_process.hpp"
#include "actors/supervisor_actor.hpp"
#include "actors/tokenizer_actor.hpp"
#include "actors/vision_encoder_actor.hpp"
#include "config/error.hpp"
#include "config/model_config.hpp"
#include "model/engine_limits.hpp"
#include "model/model_runner.hpp"
#include "model/tokenizer/chat_template_file.hpp"
#include "model/tokenizer/tokenizer.hpp"
#include "model/vision/vision_staging.hpp"
#include "model/vision/visual_pool.hpp"
#include "model/weights/model_weights.hpp"
#include "model/weights/safetensors.hpp"

#include <caf/actor_cast.hpp>
#include <caf/io/middleman.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/send.hpp>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <stdexcept>
#include <thread>
#include <utility>

namespace troupe::actors {
namespace {

// Event-driven actors compute for microseconds; what takes longer has a thread of its own.
constexpr size_t scheduler_threads = 2;
// A connection under way at a heartbeat is dropped and made again: a slow child must manage one in between.
constexpr std::chrono::milliseconds heartbeat_interval{750};
// A frozen or cut-off process is noticed after this and an interval: within 3 s. Ends that come with a closed
// connection are noticed at once.
constexpr std::chrono::milliseconds connection_timeout{2'200};
// A rank whose group was aborted leaves its step at once: one that takes longer is started anew.
constexpr std::chrono::milliseconds join_timeout_max{10'000};
constexpr size_t num_media_workers = 2;
constexpr size_t known_pictures = 16'384;
// All of an engine's actors together get this long to end.
constexpr std::chrono::milliseconds stop_timeout{10'000};
// Beyond the grace of a drain, for the messages that end requests.
constexpr std::chrono::milliseconds drain_margin{2'000};

/// What, beside pixels, decides visual rows: two engines with equal identity make equal rows.
std::string vision_identity(const config::checkpoint_config& checkpoint, gpu::dtype activation) {
  const auto& p = checkpoint.preprocessor;
  std::string identity = fmt::format("{};{};{};{};{};{};{}", p.patch_size, p.temporal_patch_size,
                                     p.merge_size, fmt::join(p.mean, ","), fmt::join(p.std, ","),
                                     static_cast<int>(activation), checkpoint.folder.string());
  std::vector<std::string> files;
  for (const auto& file : std::filesystem::directory_iterator(checkpoint.folder))
    if (file.path().extension() == ".safetensors")
      files.push_back(fmt::format(";{};{};{}", file.path().filename().string(), file.file_size(),
                                  file.last_write_time().time_since_epoch().count()));
  std::sort(files.begin(), files.end());
  for (const auto& file : files) identity += file;
  return identity;
}

std::vector<int32_t> end_tokens(const config::checkpoint_config& checkpoint,
                                const model::tokenizer& tokenizer) {
  auto ids = checkpoint.generation.eos_token_ids;
  if (ids.empty())
    if (const auto end = tokenizer.added_token("<|im_end|>")) ids.push_back(*end);
  return ids;
}

/// A program that did not become the shard it was started as would start shards of its own, and those more.
void expect_no_shard_process() {
  if (std::getenv(shard_process_variable) != nullptr)
    throw config::error(fmt::format(
        "this process was started as a shard (environment {}), but its program did not become one: main "
        "must call parse_shard_command first",
        shard_process_variable));
}

}  // namespace

system_config::system_config() {
  load<caf::io::middleman>();
  add_message_type<open_shard>("troupe_open_shard");
  add_message_type<shard_opened>("troupe_shard_opened");
  add_message_type<join_group>("troupe_join_group");
  add_message_type<open_vision_tower>("troupe_open_vision_tower");
  add_message_type<vision_tower_opened>("troupe_vision_tower_opened");
  add_message_type<encode_media>("troupe_encode_media");
  add_message_type<media_encoded>("troupe_media_encoded");
  add_message_type<count_anew>("troupe_count_anew");
  add_message_type<shard_progress>("troupe_shard_progress");
  add_message_type<run_step>("troupe_run_step");
  add_message_type<step_completed>("troupe_step_completed");
  add_message_type<open_door>("troupe_open_door");
  add_message_type<door_opened>("troupe_door_opened");
  add_error_category(engine_error_category, render_engine_error);
  // `stealing` leaves a message between two actors waiting for the sender's worker.
  set("scheduler.policy", caf::atom("sharing"));
  set("scheduler.max-threads", scheduler_threads);
  set("middleman.heartbeat-interval", caf::timespan(heartbeat_interval));
  set("middleman.connection-timeout", caf::timespan(connection_timeout));
  set("middleman.app-identifiers", std::vector<std::string>{"troupe/1"});
}

struct engine::state {
  state(caf::actor_system& home, const config::engine_config& settings,
        gpu::backend_factory shard_backends);
  ~state();

  void spawn_all();
  void stop(const caf::actor& actor, const char* name, std::chrono::steady_clock::time_point deadline);

  model::visual_pool make_pool() const;
  inner_gateway_actor make_gateway() const;
  detokenizer_actor make_detokenizer() const;
  tokenizer_actor make_tokenizer() const;
  vision_encoder_actor make_encoder();
  scheduler_actor make_scheduler(const detokenizer_actor& detokenizer,
                                 const vision_encoder_actor& encoder) const;
  vision_tower_options tower() const;
  supervisor_options supervise(const inner_gateway_actor& gateway, const scheduler_actor& scheduler,
                               const vision_encoder_actor& encoder) const;
  std::function<shard_launcher_actor(caf::actor_system&)> launcher() const;

  caf::actor_system& system;
  const gpu::backend_factory make_backend;
  const placement where;
  const config::engine_config config;
  const std::shared_ptr<const config::checkpoint_config> checkpoint;
  const std::shared_ptr<const model::tokenizer> tokenizer;
  const model::engine_limits limits;
  model::visual_pool pool;
  std::shared_ptr<const model::vision_staging> staging;
  inner_gateway_actor gateway;
  gateway_actor public_gateway;
  /// In the order in which they end: who gives work ends before who does it.
  std::vector<std::pair<const char*, caf::actor>> actors;
};

engine::state::state(caf::actor_system& home, const config::engine_config& settings,
                     gpu::backend_factory shard_backends)
    : system(home),
      make_backend(std::move(shard_backends)),
      where(place(settings, home.has_middleman())),
      config(with_device_defaults(settings, where.device)),
      checkpoint(std::make_shared<const config::checkpoint_config>(
          config::read_checkpoint_config(config))),
      tokenizer(std::make_shared<const model::tokenizer>(
          model::tokenizer::load(checkpoint->folder / "tokenizer.json"))),
      limits(limits_within(free_memory_bytes(where), where, config, *checkpoint)),
      pool(make_pool()),
      staging(std::make_shared<const model::vision_staging>(model::staging_shape{
          limits.vision_max_patches, checkpoint->model.vision.patch_width(), limits.activation})) {
  if (where.isolated) expect_no_shard_process();
  model::check_tensors(model::safetensors_folder(checkpoint->folder), checkpoint->model);
  spdlog::info(
      "{}: context {} tokens, {} KV blocks of {} tokens, {} visual rows, steps of up to {} tokens and {} "
      "sequences, {} ranks in {}",
      checkpoint->folder.string(), limits.plan.max_model_len, limits.plan.num_blocks - 1,
      limits.plan.block_size, limits.plan.visual_pool_rows, limits.plan.max_num_batched_tokens,
      limits.plan.max_num_seqs, limits.tp_size, where.isolated ? "processes" : "threads");
  spawn_all();
}

void engine::state::spawn_all() {
  gateway = make_gateway();
  public_gateway = gateway;
  const auto text = make_tokenizer();
  const auto detokenizer = make_detokenizer();
  const auto encoder = make_encoder();
  const auto scheduler = make_scheduler(detokenizer, encoder);
  auto options = supervise(gateway, scheduler, encoder);
  options.watched = {{"tokenizer", caf::actor_cast<caf::actor>(text)},
                     {"detokenizer", caf::actor_cast<caf::actor>(detokenizer)},
                     {"vision encoder", caf::actor_cast<caf::actor>(encoder)}};
  const auto boss = system.spawn(supervisor, std::move(options));
  caf::anon_send(gateway, engine_assembled{text, encoder, scheduler, boss});

  const std::vector<std::pair<const char*, caf::actor>> first{
      {"gateway", caf::actor_cast<caf::actor>(gateway)},
      {"supervisor", caf::actor_cast<caf::actor>(boss)},
      {"scheduler", caf::actor_cast<caf::actor>(scheduler)},
      {"detokenizer", caf::actor_cast<caf::actor>(detokenizer)},
      {"tokenizer", caf::actor_cast<caf::actor>(text)},
      {"vision encoder", caf::actor_cast<caf::actor>(encoder)}};
  actors.insert(actors.begin(), first.begin(), first.end());
}

model::visual_pool engine::state::make_pool() const {
  gpu::use_device(where.vision_tower());
  return {checkpoint->model, limits.activation, limits.plan.visual_pool_rows, where.pool_memory()};
}

inner_gateway_actor engine::state::make_gateway() const {
  gateway_options options;
  options.max_model_len = limits.plan.max_model_len;
  options.max_preparing_requests = config.limits.max_waiting_requests;
  options.max_images_per_request = config.limits.max_images_per_request;
  options.max_video_frames = config.limits.max_video_frames;
  options.max_request_pixels = config.limits.max_request_pixels;
  options.request_deadline = config.limits.request_deadline;
  return system.spawn(actors::gateway, options);
}

detokenizer_actor engine::state::make_detokenizer() const {
  return system.spawn(actors::detokenizer, detokenizer_options{tokenizer, gateway});
}

tokenizer_actor engine::state::make_tokenizer() const {
  tokenizer_options options{tokenizer, checkpoint, model::find_template_kind(checkpoint->folder)};
  return system.spawn<caf::detached>(actors::tokenizer, std::move(options));
}

vision_encoder_actor engine::state::make_encoder() {
  media_worker_options worker;
  worker.checkpoint = checkpoint;
  worker.activation = limits.activation;
  worker.identity = vision_identity(*checkpoint, limits.activation);
  worker.max_pixels = config.limits.max_request_pixels;
  worker.max_frame_patches = limits.vision_max_patches;
  worker.known = std::make_shared<known_digests>(known_pictures);

  vision_encoder_options options;
  options.pool_rows = limits.plan.visual_pool_rows;
  options.staging = staging;
  options.max_segments = limits.vision_max_segments;
  for (size_t i = 0; i < num_media_workers; ++i) {
    options.workers.push_back(system.spawn<caf::detached>(media_worker, worker));
    actors.emplace_back("media worker", caf::actor_cast<caf::actor>(options.workers.back()));
  }
  return system.spawn<caf::detached>(vision_encoder, std::move(options));
}

scheduler_actor engine::state::make_scheduler(const detokenizer_actor& detokenizer,
                                              const vision_encoder_actor& encoder) const {
  scheduler_options options;
  options.limits.plan = limits.plan;
  options.limits.end_token_ids = end_tokens(*checkpoint, *tokenizer);
  options.limits.max_waiting_requests = config.limits.max_waiting_requests;
  options.limits.max_waiting_tokens = config.limits.max_waiting_tokens;
  options.limits.max_prefill_tokens_beside_decode = config.limits.max_prefill_tokens_beside_decode;
  options.limits.prefix_cache = config.limits.prefix_cache;
  options.step_timeout = config.limits.step_timeout;
  // Without graphs there is nothing to verify.
  options.verify_every = config.limits.eager ? 0 : config.limits.verify_every;
  options.detokenizer = detokenizer;
  options.vision_encoder = encoder;
  return system.spawn(scheduler, std::move(options));
}

vision_tower_options engine::state::tower() const {
  vision_tower_options options;
  options.weights.folder = std::filesystem::absolute(checkpoint->folder).string();
  options.activation = limits.activation;
  options.eager = config.limits.eager;
  options.max_patches = limits.vision_max_patches;
  options.max_segments = limits.vision_max_segments;
  options.slice_microseconds = config.limits.vision_slice_microseconds;
  options.backend = where.vision_tower();
  options.pool_rows = limits.plan.visual_pool_rows;
  return options;
}

supervisor_options engine::state::supervise(const inner_gateway_actor& front,
                                            const scheduler_actor& scheduler,
                                            const vision_encoder_actor& encoder) const {
  supervisor_options options;
  options.shard.weights.folder = std::filesystem::absolute(checkpoint->folder).string();
  options.shard.limits = limits.plan;
  options.shard.activation = limits.activation;
  options.shard.tp_size = limits.tp_size;
  options.shard.eager = config.limits.eager;
  options.shard.collective_timeout_ms = config.limits.step_timeout.count();
  if (config.limits.mask_unused_tokens)
    options.shard.token_mask = sampling_mask(*tokenizer, checkpoint->model);
  options.lanes = {model::model_runner::lane(checkpoint->model, limits.plan, limits.tp_size)};
  options.symmetric = where.symmetric();
  for (int32_t rank = 0; rank < limits.tp_size; ++rank)
    options.backends.push_back(where.shard(rank));
  options.tower = tower();
  options.visual_pool_descriptor = pool.file_descriptor();
  options.staging_descriptor = staging->file_descriptor();
  options.isolated = where.isolated;
  options.make_launcher = launcher();
  options.join_timeout = std::min(join_timeout_max, config.limits.step_timeout);
  options.gateway = front;
  options.scheduler = scheduler;
  options.encoder = encoder;
  return options;
}

std::function<shard_launcher_actor(caf::actor_system&)> engine::state::launcher() const {
  if (!where.isolated)
    return [backends = make_backend](caf::actor_system& home) {
      return home.spawn(shard_thread_launcher, backends);
    };
  shard_process_launcher_options options;
  options.program = config.parallel.shard_program.empty() ? "/proc/self/exe"
                                                          : config.parallel.shard_program;
  return [options](caf::actor_system& home) {
    return home.spawn<caf::detached>(shard_process_launcher, options);
  };
}

void engine::state::stop(const caf::actor& actor, const char* name,
                         std::chrono::steady_clock::time_point deadline) {
  const auto left = std::max(std::chrono::steady_clock::duration::zero(),
                             deadline - std::chrono::steady_clock::now());
  caf::scoped_actor self(system);
  self->monitor(actor);
  self->send_exit(actor, caf::exit_reason::user_shutdown);
  bool ended = false;
  self->receive([&](const caf::down_msg&) { ended = true; },
                caf::after(std::chrono::duration_cast<std::chrono::milliseconds>(left)) >> [] {});
  if (!ended) spdlog::warn("the {} did not end within {} ms", name, stop_timeout.count());
}

engine::state::~state() {
  const auto deadline = std::chrono::steady_clock::now() + stop_timeout;
  for (const auto& [name, actor] : actors) stop(actor, name, deadline);
}

engine::engine(caf::actor_system& system, const config::engine_config& config,
               gpu::backend_factory make_backend)
    : state_(std::make_unique<state>(system, config, std::move(make_backend))) {}
engine::~engine() = default;
engine::engine(engine&&) noexcept = default;

const gateway_actor& engine::gateway() const { return state_->public_gateway; }
const config::checkpoint_config& engine::checkpoint() const { return *state_->checkpoint; }
const std::shared_ptr<const model::tokenizer>& engine::tokenizer() const { return state_->tokenizer; }

void engine::wait_ready(std::chrono::milliseconds timeout) const {
  caf::scoped_actor self(state_->system);
  std::string failure;
  self->request(state_->gateway, timeout, await_ready{})
      .receive(
          [&](const engine_status& status) {
            if (status.phase == engine_phase::failed) failure = status.detail;
          },
          [&](const caf::error& error) {
            failure = fmt::format("not ready after {} ms: {}", timeout.count(), describe(error));
          });
  if (!failure.empty()) throw std::runtime_error(failure);
}

void engine::drain(std::chrono::milliseconds grace) {
  caf::scoped_actor self(state_->system);
  self->request(state_->gateway, grace + drain_margin, begin_drain{grace.count()})
      .receive([](const engine_status&) {},
               [](const caf::error& error) { spdlog::warn("drain: {}", describe(error)); });
}

request_id next_request_id() {
  static std::atomic<request_id> last{0};
  return ++last;
}

}  // namespace troupe::actors
