#include "engine_on_a_bench.hpp"

#include "actors/detokenizer_actor.hpp"
#include "actors/errors.hpp"
#include "actors/media_digest.hpp"
#include "actors/system.hpp"
#include "actors/tokenizer_actor.hpp"
#include "model/prompt_builder.hpp"
#include "support/reference_set.hpp"

#include <caf/event_based_actor.hpp>
#include <caf/send.hpp>
#include <fmt/format.h>

#include <cstring>
#include <utility>

namespace troupe::testing {
namespace {

using machine_pointer = std::shared_ptr<fake_machine>;

// A picture of 6 x 6 patches: 9 visual tokens.
constexpr model::patch_grid picture_grid{1, 6, 6};
// What a slot of the staging memory holds; patches of the fakes are small.
constexpr int32_t slot_patches = 64;
constexpr int32_t slot_segments = 16;
constexpr int32_t patch_width = 2;
constexpr int32_t block_size = 4;

/// What the fakes' pixels are: every temporal group begins with this.
struct group_mark {
  plan::media_digest digest{};
  int32_t group = 0;
};
static_assert(sizeof(group_mark) <= sizeof(float) * patch_width * 36);

void mark_pixels(model::patch_rows& patches, const plan::media_digest& digest) {
  const size_t group_bytes = patches.pixels.size() / static_cast<size_t>(patches.grid.t);
  for (int32_t group = 0; group < patches.grid.t; ++group) {
    const group_mark mark{digest, group};
    std::memcpy(patches.pixels.data() + static_cast<size_t>(group) * group_bytes, &mark, sizeof mark);
  }
}

actors::media_worker_actor::behavior_type fake_media_worker(actors::media_worker_actor::pointer,
                                                            machine_pointer machine) {
  return {[machine](const actors::process_media& message) -> actors::media_processed {
    ++machine->seen.pictures_processed;
    if (machine->behave.refuse_pictures) return {{}, nullptr, machine->behave.refuse_pictures};
    const auto& item = message.request->media.at(static_cast<size_t>(message.media_index));
    auto patches = std::make_shared<model::patch_rows>();
    patches->grid = item.grid;
    const auto digest = actors::digest_encoded(item);
    patches->pixels.resize(sizeof(float) * patch_width * static_cast<size_t>(item.grid.patches()));
    mark_pixels(*patches, digest);
    return {digest, std::move(patches), std::nullopt};
  }};
}

struct fake_tower_state {
  std::vector<caf::typed_response_promise<actors::media_encoded>> unanswered;
};

/// Fills the toy model's pool, at once, with the rows of whatever pictures lie in the slot.
void encode(fake_machine& machine, const actors::encode_media& message) {
  int64_t patch = 0;
  for (const auto& job : message.jobs) {
    const auto group_rows = std::ssize(job.rows) / job.grid.t;
    auto row = job.rows.begin();
    for (int32_t group = 0; group < job.grid.t; ++group, patch += job.grid.patches() / job.grid.t) {
      group_mark mark;
      std::memcpy(&mark, machine.staging->slot(message.slot).at(patch).data, sizeof mark);
      if (mark.group == 0) machine.seen.encoded.push_back(mark.digest);
      for (auto i = mark.group * group_rows; i < (mark.group + 1) * group_rows; ++i)
        machine.pool.at(static_cast<size_t>(*row++)) =
            simulation::visual_row_value(mark.digest, static_cast<int32_t>(i));
    }
  }
}

actors::vision_tower_actor::behavior_type fake_tower(
    actors::vision_tower_actor::stateful_pointer<fake_tower_state> self, machine_pointer machine) {
  return {
      [self, machine](const actors::open_vision_tower&) {
        machine->seen.tower = self;
        return actors::vision_tower_opened{};
      },
      [self, machine](const actors::encode_media& message) -> caf::result<actors::media_encoded> {
        if (machine->behave.tower_fails)
          return actors::make_error(actors::engine_error::device_failed, "the fake tower was told to fail");
        if (machine->behave.tower_loses_device > 0) {
          --machine->behave.tower_loses_device;
          ++machine->seen.devices_lost;
          return actors::make_error(actors::engine_error::device_lost, "the fake tower was told to lose it");
        }
        encode(*machine, message);
        if (!machine->behave.tower_is_silent) return actors::media_encoded{};
        return self->state.unanswered.emplace_back(
            self->make_response_promise<actors::media_encoded>());
      },
      [](actors::count_anew) {},
      [self](caf::tick_atom) {
        for (auto& run : std::exchange(self->state.unanswered, {})) run.deliver(actors::media_encoded{});
      }};
}

struct fake_shard_state {
  std::optional<simulation::toy_shard> model;
  plan::step_result last;  // without anything a graph got wrong
  actors::shard_options options;
  uint64_t next_step = 1;
  std::vector<caf::typed_response_promise<actors::step_completed>> unanswered;
  std::vector<caf::typed_response_promise<actors::shard_opened>> never_joined;
};

/// In a group from now on, with an empty cache.
actors::shard_opened enter(fake_shard_state& state, fake_machine& machine, uint64_t epoch) {
  const auto rank = state.options.tp_rank;
  state.options.epoch = epoch;
  state.options.alone = false;
  state.next_step = 1;
  state.model.emplace(state.options.limits);
  if (rank == 0) machine.seen.epochs.push_back(epoch);
  actors::shard_opened opened{{1, 1}};
  if (machine.behave.graphs) opened.graphs = machine.behave.graphs(rank, epoch);
  return opened;
}

/// As strict as a real shard: runs exactly the next step of its epoch, or refuses.
std::string refusal_of(const plan::step_plan& plan, actors::step_order order,
                       const fake_shard_state& state) {
  if (state.options.alone) return "opened alone, expected to have joined a group";
  if (plan.epoch != state.options.epoch)
    return fmt::format("epoch {}, expected {}", plan.epoch, state.options.epoch);
  const uint64_t expected = state.next_step - (order == actors::step_order::recheck ? 1 : 0);
  if (plan.step != expected) return fmt::format("step {}, expected {}", plan.step, expected);
  const auto faults = plan::faults(plan, state.options.limits);
  return faults.empty() ? std::string{} : faults.front();
}

/// Graphs of some buckets sample wrong tokens; without a graph every step is right.
actors::step_completed carry_out(const actors::run_step& message, fake_shard_state& state,
                                 fake_machine& machine) {
  const auto& plan = *message.plan;
  const bool broken = machine.behave.broken_graphs.contains(plan.bucket_tokens);
  if (message.order != actors::step_order::recheck) {
    ++state.next_step;
    state.last = state.model->run(plan, machine.pool, machine.behave.broken_logits);
  }
  actors::step_completed completed{state.last, 0, 0, {}};
  if (message.order == actors::step_order::replay && broken)
    for (int32_t& token : completed.result.tokens) token ^= 1;
  if (message.order == actors::step_order::verified || message.order == actors::step_order::recheck)
    completed.difference = broken ? "told to differ" : "";
  return completed;
}

actors::shard_actor::behavior_type fake_shard(
    actors::shard_actor::stateful_pointer<fake_shard_state> self, machine_pointer machine) {
  return {
      [self, machine](const actors::open_shard& message) {
        const auto& options = self->state.options = message.options;
        machine->seen.shards.resize(static_cast<size_t>(options.tp_size));
        machine->seen.shards[static_cast<size_t>(options.tp_rank)] = self;
        machine->seen.launches.resize(static_cast<size_t>(options.tp_size));
        ++machine->seen.launches[static_cast<size_t>(options.tp_rank)];
        if (options.alone) return actors::shard_opened{};
        return enter(self->state, *machine, options.epoch);
      },
      [self, machine](const actors::join_group& message) -> caf::result<actors::shard_opened> {
        auto& state = self->state;
        const auto rank = state.options.tp_rank;
        if (machine->behave.silent_to_join.erase(rank) > 0)
          return state.never_joined.emplace_back(self->make_response_promise<actors::shard_opened>());
        if (machine->behave.refuse_to_join.erase(rank) > 0) {
          ++machine->seen.joins_refused;
          return actors::make_error(actors::engine_error::peer_lost, "told not to join");
        }
        return enter(state, *machine, message.epoch);
      },
      [self, machine](const actors::run_step& message) -> caf::result<actors::step_completed> {
        auto& state = self->state;
        if (machine->behave.shards_are_silent)
          return state.unanswered.emplace_back(self->make_response_promise<actors::step_completed>());
        if (auto why = refusal_of(*message.plan, message.order, state); !why.empty()) {
          machine->seen.refused_plans.push_back(why);
          return actors::make_error(actors::engine_error::plan_refused, why);
        }
        const auto [seen, first] = machine->seen.plans.try_emplace(
            {message.plan->epoch, message.plan->step}, message.plan->content);
        machine->seen.ranks_saw_different_plans |= !first && seen->second != message.plan->content;
        machine->seen.steps += state.options.tp_rank == 0;
        machine->seen.orders[message.order] += state.options.tp_rank == 0;
        auto completed = carry_out(message, state, *machine);
        if (machine->behave.on_step)
          return machine->behave.on_step(state.options.tp_rank, std::move(completed));
        return completed;
      }};
}

actors::shard_launcher_actor::behavior_type fake_launcher(actors::shard_launcher_actor::pointer self,
                                                          machine_pointer machine) {
  return {
      [self, machine](const actors::launch_shard& launch) {
        actors::shard_launched launched;
        launched.shard = self->spawn<caf::linked>(fake_shard, machine);
        if (launch.with_vision_tower) launched.tower = self->spawn<caf::linked>(fake_tower, machine);
        return launched;
      },
      [](const actors::hand_over& given) { return actors::handed_over{given.symmetric_descriptors}; },
  };
}

/// A client's end: writes down what it hears.
caf::behavior sink(caf::event_based_actor*, std::shared_ptr<answer> heard) {
  const auto end = [heard](ending how, int32_t status, const std::string& code, const std::string& text) {
    if (heard->ends++ > 0) return;
    heard->end = how;
    heard->http_status = status;
    heard->code = code;
    heard->message = text;
  };
  return {
      [heard](const actors::text_delta& delta) {
        heard->events_after_end += heard->ends;
        heard->text += delta.text;
        for (const auto& token : delta.tokens) heard->tokens.push_back(token.token);
      },
      [heard, end](const actors::request_finished& event) {
        end(ending::finished, 200, {}, {});
        heard->finished = event;
      },
      [end](const actors::request_rejected& event) {
        end(ending::rejected, event.http_status, event.code, event.message);
      },
      [end](const actors::request_failed& event) {
        end(ending::failed, event.http_status, event.code, event.message);
      },
      [end](const actors::request_cancelled&) { end(ending::cancelled, 499, {}, {}); },
  };
}

/// Read once: a simulation makes thousands of engines.
std::shared_ptr<const config::checkpoint_config> tiny_checkpoint() {
  static const auto checkpoint = std::make_shared<const config::checkpoint_config>(
      config::read_checkpoint_config(fixtures() / "tiny"));
  return checkpoint;
}
std::shared_ptr<const model::tokenizer> tiny_tokenizer() {
  static const auto tokenizer = std::make_shared<const model::tokenizer>(
      model::tokenizer::load(fixtures() / "tiny" / "tokenizer.json"));
  return tokenizer;
}

template <class State, class Handle>
State& state_of(const Handle& handle) {
  using actor_type = typename Handle::template stateful_base<State>;
  return dynamic_cast<actor_type&>(*caf::actor_cast<caf::abstract_actor*>(handle)).state;
}

}  // namespace

bench_system_config::bench_system_config() {
  add_error_category(actors::engine_error_category, actors::render_engine_error);
  set("scheduler.policy", caf::atom("testing"));
}

engine_bench::engine_bench(bench_options options)
    : options_(options),
      system_(config_),
      scheduler_(dynamic_cast<caf::scheduler::test_coordinator&>(system_.scheduler())),
      checkpoint_(tiny_checkpoint()),
      tokenizer_(tiny_tokenizer()),
      machine_(std::make_shared<fake_machine>()) {
  machine_->limits = limits();
  machine_->pool.assign(static_cast<size_t>(options_.visual_pool_rows), 0);
  machine_->staging = std::make_shared<const model::vision_staging>(
      model::staging_shape{slot_patches, patch_width, gpu::dtype::f32});
  spawn_actors();
  run();
}

engine_bench::~engine_bench() {
  for (const auto& [id, actor] : sinks_) caf::anon_send_exit(actor, caf::exit_reason::kill);
  caf::anon_send_exit(supervisor, caf::exit_reason::user_shutdown);
  run();
  pass(std::chrono::milliseconds{4'000});
  for (const auto& actor :
       {caf::actor_cast<caf::actor>(gateway), caf::actor_cast<caf::actor>(scheduler),
        caf::actor_cast<caf::actor>(encoder)})
    caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
  run();
  system_.await_actors_before_shutdown(false);
}

plan::plan_limits engine_bench::limits() const {
  plan::plan_limits limits;
  limits.max_num_seqs = options_.max_num_seqs;
  limits.max_num_batched_tokens = options_.max_num_batched_tokens;
  limits.max_model_len = options_.max_model_len;
  limits.block_size = block_size;
  limits.max_blocks_per_sequence = static_cast<int32_t>(options_.max_model_len / block_size);
  limits.num_blocks = options_.num_blocks;
  limits.visual_pool_rows = options_.visual_pool_rows;
  limits.vocab_size = checkpoint_->model.text.vocab_size;
  limits.max_adjustments = limits.vocab_size;
  limits.token_buckets = plan::make_token_buckets(limits.max_num_batched_tokens);
  return limits;
}

void engine_bench::spawn_actors() {
  actors::gateway_options front;
  front.max_model_len = options_.max_model_len;
  front.max_preparing_requests = options_.max_preparing_requests;
  front.request_deadline = options_.request_deadline;
  gateway = system_.spawn(actors::gateway, front);
  const auto text = system_.spawn(actors::tokenizer,
                                  actors::tokenizer_options{tokenizer_, checkpoint_,
                                                            model::template_kind::instruct});
  const auto detokenizer =
      system_.spawn(actors::detokenizer, actors::detokenizer_options{tokenizer_, gateway});

  actors::vision_encoder_options vision;
  vision.pool_rows = options_.visual_pool_rows;
  vision.staging = machine_->staging;
  vision.max_segments = slot_segments;
  for (int32_t i = 0; i < 2; ++i) vision.workers.push_back(system_.spawn(fake_media_worker, machine_));
  encoder = system_.spawn(actors::vision_encoder, std::move(vision));

  actors::scheduler_options planning;
  planning.limits.plan = machine_->limits;
  planning.limits.end_token_ids = checkpoint_->generation.eos_token_ids;
  planning.limits.max_waiting_requests = options_.max_waiting_requests;
  planning.limits.max_waiting_tokens = 100'000;
  planning.step_timeout = std::chrono::milliseconds{5'000};
  planning.verify_every = options_.verify_every;
  planning.detokenizer = detokenizer;
  planning.vision_encoder = encoder;
  scheduler = system_.spawn(actors::scheduler, std::move(planning));

  actors::supervisor_options watching;
  watching.shard.limits = machine_->limits;
  watching.shard.tp_size = options_.ranks;
  watching.backends.resize(static_cast<size_t>(options_.ranks));
  watching.lanes = {{"text", 64}};
  watching.make_launcher = [machine = machine_](caf::actor_system& system) {
    return system.spawn(fake_launcher, machine);
  };
  watching.gateway = gateway;
  watching.scheduler = scheduler;
  watching.encoder = encoder;
  watching.isolated = options_.isolated;
  watching.watched = {{"tokenizer", caf::actor_cast<caf::actor>(text)},
                      {"detokenizer", caf::actor_cast<caf::actor>(detokenizer)},
                      {"vision encoder", caf::actor_cast<caf::actor>(encoder)}};
  supervisor = system_.spawn(actors::supervisor, std::move(watching));
  caf::anon_send(gateway, actors::engine_assembled{text, encoder, scheduler, supervisor});
}

std::shared_ptr<actors::completion_request> engine_bench::text_request(const std::string& text,
                                                                       int32_t max_tokens) {
  auto request = std::make_shared<actors::completion_request>();
  request->id = actors::next_request_id();
  request->chat.messages.push_back({model::chat_role::user, {model::text_part{text}}, {}, {}});
  request->sampling.temperature = 0;
  request->sampling.max_tokens = max_tokens;
  request->sampling.ignore_eos = true;
  return request;
}

std::shared_ptr<actors::completion_request> engine_bench::picture_request(const std::string& picture,
                                                                          int32_t max_tokens) {
  auto request = text_request("What is it?", max_tokens);
  request->chat.messages.front().content.insert(request->chat.messages.front().content.begin(),
                                                model::media_part{0, false});
  model::media_item item;
  item.frames = {std::make_shared<const std::string>(picture)};
  item.grid = picture_grid;
  item.pixels = 96 * 96;
  request->media.push_back(std::move(item));
  return request;
}

std::shared_ptr<actors::completion_request> engine_bench::clip_request(const std::string& clip,
                                                                       int32_t groups,
                                                                       int32_t max_tokens) {
  auto request = picture_request(clip, max_tokens);
  request->chat.messages.front().content.front() = model::media_part{0, true};
  auto& item = request->media.front();
  item.video = true;
  item.frames.resize(static_cast<size_t>(2 * groups), item.frames.front());
  item.grid.t = groups;
  return request;
}

actors::request_id engine_bench::submit(std::shared_ptr<const actors::completion_request> request) {
  const auto id = request->id;
  answers_[id] = std::make_shared<answer>();
  sinks_[id] = system_.spawn(sink, answers_[id]);
  caf::anon_send(gateway, actors::submit_request{std::move(request), sinks_[id]});
  return id;
}

void engine_bench::cancel(actors::request_id id) {
  caf::anon_send(gateway, actors::cancel_request{id});
}

void engine_bench::pause(actors::request_id id) {
  caf::anon_send(gateway, actors::pause_request{id});
}

void engine_bench::resume(actors::request_id id) {
  caf::anon_send(gateway, actors::resume_request{id});
}

void engine_bench::kill_sink(actors::request_id id) {
  caf::anon_send_exit(sinks_.at(id), caf::exit_reason::kill);
}

bool engine_bench::run_one(const std::function<size_t(size_t)>& pick) {
  auto& jobs = scheduler_.jobs;
  if (jobs.empty()) return false;
  std::swap(jobs.front(), jobs[pick(jobs.size())]);
  scheduler_.run_once();
  return true;
}

void engine_bench::pass(std::chrono::milliseconds duration, std::chrono::milliseconds step) {
  run();
  for (auto passed = std::chrono::milliseconds{0}; passed < duration; passed += step) {
    scheduler_.advance_time(step);
    run();
  }
}

std::vector<int32_t> engine_bench::tokens_alone(const actors::completion_request& request) const {
  auto prompt = model::build_prompt(request.chat, model::template_kind::instruct, request.media,
                                    *tokenizer_, *checkpoint_);
  for (auto& span : prompt.spans)
    span.digest = actors::digest_encoded(request.media.at(static_cast<size_t>(span.media_index)));
  return simulation::run_alone(prompt, request.sampling, checkpoint_->generation.eos_token_ids,
                               checkpoint_->model.text.vocab_size, {})
      .tokens;
}

actors::engine_status engine_bench::status() {
  caf::scoped_actor self(system_);
  actors::engine_status status;
  auto answer = self->request(gateway, std::chrono::seconds{1}, actors::get_status{});
  run();
  answer.receive([&](const actors::engine_status& found) { status = found; }, [](const caf::error&) {});
  return status;
}

const actors::scheduler_core& engine_bench::scheduler_core() const {
  return *state_of<actors::scheduler_state>(scheduler).core;
}
const actors::vision_encoder_core& engine_bench::encoder_core() const {
  return *state_of<actors::vision_encoder_state>(encoder).core;
}
const actors::gateway_core& engine_bench::gateway_core() const {
  return *state_of<actors::gateway_state>(gateway).core;
}

std::string engine_bench::check() const {
  if (auto why = scheduler_core().planner().check(); !why.empty()) return why;
  if (auto why = encoder_core().rows().check(); !why.empty()) return why;
  if (auto why = encoder_core().slots().check(); !why.empty()) return why;
  if (machine_->seen.ranks_saw_different_plans) return "two ranks saw different plans for one step";
  for (const auto& [id, answer] : answers_)
    if (answer->ends > 1 || answer->events_after_end > 0)
      return fmt::format("request {} heard {} ends and {} events after them", id, answer->ends,
                         answer->events_after_end);
  return {};
}

bool engine_bench::idle() const {
  const auto planner = scheduler_core().planner().statistics();
  return gateway_core().num_requests() == 0 && planner.waiting == 0 &&
         planner.waiting_for_media == 0 && planner.paused == 0 && planner.running == 0 &&
         planner.blocks_held == 0 &&
         encoder_core().rows().totals().held == 0;
}

}  // namespace troupe::testing
