#include "actors/cli/bench.hpp"
#include "actors/scheduler_actor.hpp"
#include "actors/system.hpp"
#include "model/plan/step_plan.hpp"

#include <fmt/format.h>
#include <CLI/CLI.hpp>
#include <caf/scoped_actor.hpp>
#include <caf/unit.hpp>

#include <atomic>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

namespace troupe::cli {
namespace {

using clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr int32_t prompt_tokens = 16;

struct step_bench_options {
  int32_t requests = 64;
  int32_t shards = 2;
  int32_t steps = 4000;
};

/// When full steps reached the first null shard.
struct arrivals {
  int32_t full_rows = 0;
  std::vector<clock::time_point> times;
  std::atomic<int64_t> tokens{0};  // that came out at the other end
};

/// A shard without a device: every row samples token 1, at once.
actors::shard_actor::behavior_type null_shard(actors::shard_actor::pointer,
                                              std::shared_ptr<arrivals> seen) {
  return {[](const actors::open_shard&) { return actors::shard_opened{}; },
          [](const actors::join_group&) { return actors::shard_opened{}; },
          [seen](const actors::run_step& message) {
            const plan::step_plan& plan = *message.plan;
            if (seen && plan.num_rows() == seen->full_rows) seen->times.push_back(clock::now());
            actors::step_completed completed;
            completed.result.epoch = plan.epoch;
            completed.result.step = plan.step;
            completed.result.content = plan.content;
            completed.result.tokens.assign(static_cast<size_t>(plan.num_rows()), 1);
            completed.result.logprobs.resize(static_cast<size_t>(plan.num_rows()));
            return completed;
          }};
}

actors::detokenizer_actor::behavior_type null_detokenizer(actors::detokenizer_actor::pointer,
                                                          std::shared_ptr<arrivals> seen) {
  return {[](const actors::open_stream&) {},
          [seen](const actors::generation_progress& progress) {
            seen->tokens += static_cast<int64_t>(progress.tokens.size());
          }};
}

// CAF 0.17 binds a reference to nothing when an actor function is spawned without arguments, which
// ends builds with assertions: hence the unused ones.
actors::vision_encoder_actor::behavior_type null_encoder(actors::vision_encoder_actor::pointer,
                                                         caf::unit_t) {
  return {[](const actors::prepare_media&) { return actors::media_prepared{}; },
          [](const actors::acquire_rows&) { return actors::rows_acquired{}; },
          [](const actors::release_rows&) {},
          [](const actors::tower_ready&) {}, [](const actors::group_lost&) {},
          [](const actors::groups_ended&) {},
          [](const actors::get_vision_statistics&) { return actors::vision_statistics{}; }};
}

actors::group_watcher::behavior_type null_watcher(actors::group_watcher::pointer, caf::unit_t) {
  return {[](const actors::group_lost&) {}};
}

plan::plan_limits limits_for(const step_bench_options& options) {
  plan::plan_limits limits;
  limits.max_num_seqs = options.requests;
  limits.max_num_batched_tokens = options.requests * prompt_tokens;
  limits.block_size = 16;
  limits.max_model_len = options.steps + prompt_tokens + 1;
  limits.max_blocks_per_sequence = static_cast<int32_t>(limits.max_model_len / 16 + 1);
  limits.num_blocks = options.requests * limits.max_blocks_per_sequence + 1;
  limits.visual_pool_rows = 1;
  limits.max_adjustments = 1024;
  limits.vocab_size = 1000;
  limits.token_buckets = plan::make_token_buckets(limits.max_num_batched_tokens);
  return limits;
}

actors::schedule_request make_request(int32_t steps) {
  auto completion = std::make_shared<actors::completion_request>();
  completion->id = actors::next_request_id();
  auto prompt = std::make_shared<plan::prompt>();
  prompt->token_ids.assign(prompt_tokens, static_cast<int32_t>(completion->id % 997));
  plan::assign_positions(*prompt);
  actors::schedule_request message;
  message.sampling.temperature = 0;
  message.sampling.max_tokens = steps;
  message.sampling.ignore_eos = true;
  message.deadline = clock::now() + 1h;
  message.request = std::move(completion);
  message.prompt = std::move(prompt);
  return message;
}

int bench_step(const step_bench_options& options) {
  actors::system_config config;
  caf::actor_system system{config};
  auto seen = std::make_shared<arrivals>();
  seen->full_rows = options.requests;
  seen->times.reserve(static_cast<size_t>(options.steps));

  actors::scheduler_options chosen;
  chosen.limits.plan = limits_for(options);
  chosen.limits.max_waiting_requests = options.requests;
  chosen.limits.max_waiting_tokens = int64_t{1} << 30;
  chosen.detokenizer = system.spawn(null_detokenizer, seen);
  chosen.vision_encoder = system.spawn(null_encoder, caf::unit);
  const auto scheduler = system.spawn(actors::scheduler, chosen);
  actors::group_ready group;
  group.epoch = 1;
  group.watcher = system.spawn(null_watcher, caf::unit);
  for (int32_t rank = 0; rank < options.shards; ++rank)
    group.shards.push_back(system.spawn<caf::detached>(null_shard, rank == 0 ? seen : nullptr));

  caf::scoped_actor self{system};
  for (int32_t i = 0; i < options.requests; ++i) self->send(scheduler, make_request(options.steps));
  self->send(scheduler, group);
  const int64_t expected = int64_t{options.requests} * options.steps;
  const auto deadline = clock::now() + 5min;
  while (seen->tokens < expected) {
    if (clock::now() > deadline)
      throw std::runtime_error("the steps did not finish within 5 minutes");
    std::this_thread::sleep_for(5ms);
  }

  std::vector<double> costs;
  for (size_t i = 1; i < seen->times.size(); ++i)
    costs.push_back(
        std::chrono::duration<double, std::micro>(seen->times[i] - seen->times[i - 1]).count());
  print_row(
      {fmt::format("step with null devices, {} requests, {} shards", options.requests,
                   options.shards),
       fmt::format("p50 {:.1f} us, p99 {:.1f} us", quantile(costs, 0.5), quantile(costs, 0.99)), "",
       0});
  system.await_actors_before_shutdown(false);
  for (auto& shard : group.shards) caf::anon_send_exit(shard, caf::exit_reason::user_shutdown);
  caf::anon_send_exit(scheduler, caf::exit_reason::user_shutdown);
  return 0;
}

}  // namespace

void add_bench_step(CLI::App& bench, action& chosen) {
  auto* command = bench.add_subcommand(
      "step", "Cost of one planned step without a device: plan, messages, completion");
  auto options = std::make_shared<step_bench_options>();
  command->add_option("--requests", options->requests, "decoding requests")
      ->check(CLI::PositiveNumber);
  command->add_option("--shards", options->shards, "ranks")->check(CLI::PositiveNumber);
  command->add_option("--steps", options->steps, "steps")->check(CLI::Range(10, 100'000));
  command->callback([&chosen, options] { chosen = [options] { return bench_step(*options); }; });
}

}  // namespace troupe::cli
