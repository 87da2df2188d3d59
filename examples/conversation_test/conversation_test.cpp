// A conversation between actors, tested message by message: no threads, no sleeps, no GPU, no files.
//
// The scheduler is the real one. Its neighbours are ten lines each: a shard that always samples the next
// number, a detokenizer that writes down what it is told, an encoder that is never asked. CAF's test
// coordinator runs one message at a time and has a clock that only the test advances.

#include "actors/errors.hpp"
#include "actors/scheduler_actor.hpp"
#include "actors/system.hpp"

#include <caf/actor_system.hpp>
#include <caf/actor_system_config.hpp>
#include <caf/scheduler/test_coordinator.hpp>
#include <caf/send.hpp>

#include <chrono>
#include <cstdio>
#include <memory>
#include <vector>

using namespace troupe;

namespace {

struct notes {
  std::vector<int32_t> tokens;
  std::vector<scheduling::end_reason> ends;
  std::vector<uint64_t> lost_epochs;
};

/// Samples 1 + the token before, or says nothing at all.
actors::shard_actor::behavior_type counting_shard(actors::shard_actor::pointer self, bool silent) {
  return {
      [](const actors::open_shard&) { return actors::shard_opened{}; },
      [](const actors::join_group&) { return actors::shard_opened{}; },
      [self, silent, last = std::vector<int32_t>{}](
          const actors::run_step& step) mutable -> caf::result<actors::step_completed> {
        if (silent) return self->make_response_promise<actors::step_completed>();
        const auto& plan = *step.plan;
        actors::step_completed completed;
        completed.result.epoch = plan.epoch;
        completed.result.step = plan.step;
        completed.result.content = plan.content;
        completed.result.logprobs.resize(plan.logit_rows.size());
        for (const int32_t row : plan.logit_rows) {
          // -1 - r stands for the token that row r of the step before sampled.
          const int32_t id = plan.token_ids[static_cast<size_t>(row)];
          completed.result.tokens.push_back(1 + (id >= 0 ? id : last[static_cast<size_t>(-1 - id)]));
        }
        last = completed.result.tokens;
        return completed;
      },
  };
}

actors::detokenizer_actor::behavior_type writing_detokenizer(actors::detokenizer_actor::pointer,
                                                             std::shared_ptr<notes> seen) {
  return {
      [](const actors::open_stream&) {},
      [seen](const actors::generation_progress& progress) {
        for (const auto& generated : progress.tokens) seen->tokens.push_back(generated.token);
        for (const auto& ended : progress.ended) seen->ends.push_back(ended.reason);
      },
  };
}

actors::vision_encoder_actor::behavior_type idle_encoder(actors::vision_encoder_actor::pointer, int) {
  return {
      [](const actors::prepare_media&) { return actors::media_prepared{}; },
      [](const actors::acquire_rows&) { return actors::rows_acquired{}; },
      [](const actors::release_rows&) {},
      [](const actors::tower_ready&) {},
      [](const actors::group_lost&) {},
      [](const actors::groups_ended&) {},
      [](actors::get_vision_statistics) { return actors::vision_statistics{}; },
  };
}

actors::group_watcher::behavior_type watcher(actors::group_watcher::pointer, std::shared_ptr<notes> seen) {
  return {[seen](const actors::group_lost& lost) { seen->lost_epochs.push_back(lost.epoch); }};
}

struct test_config : caf::actor_system_config {
  test_config() {
    add_error_category(actors::engine_error_category, actors::render_engine_error);
    set("scheduler.policy", caf::atom("testing"));
  }
};

/// Everything a conversation needs.
struct stage {
  stage() : system(config), coordinator(dynamic_cast<caf::scheduler::test_coordinator&>(system.scheduler())) {
    actors::scheduler_options options;
    auto& limits = options.limits.plan;
    limits.max_num_seqs = 4;
    limits.max_num_batched_tokens = 8;
    limits.max_blocks_per_sequence = 8;
    limits.block_size = 4;
    limits.num_blocks = 33;
    limits.max_adjustments = 100;
    limits.vocab_size = 100;
    limits.max_model_len = 32;
    limits.token_buckets = plan::make_token_buckets(limits.max_num_batched_tokens);
    options.limits.max_waiting_requests = 8;
    options.limits.max_waiting_tokens = 1'000;
    options.step_timeout = std::chrono::seconds{1};
    options.detokenizer = system.spawn(writing_detokenizer, seen);
    options.vision_encoder = system.spawn(idle_encoder, 0);
    watching = system.spawn(watcher, seen);
    scheduler = system.spawn(actors::scheduler, std::move(options));
  }
  ~stage() {
    caf::anon_send_exit(scheduler, caf::exit_reason::kill);
    coordinator.run();
  }

  void give_group(uint64_t epoch, bool silent) {
    caf::anon_send(scheduler, actors::group_ready{epoch,
                                                  {system.spawn(counting_shard, silent),
                                                   system.spawn(counting_shard, silent)},
                                                  watching});
  }

  void ask(std::vector<int32_t> prompt_ids, int32_t max_tokens) {
    auto prompt = std::make_shared<plan::prompt>();
    prompt->token_ids = std::move(prompt_ids);
    plan::assign_positions(*prompt);
    auto request = std::make_shared<actors::completion_request>();
    request->id = actors::next_request_id();
    actors::schedule_request message{request, prompt, {}, std::chrono::steady_clock::time_point::max()};
    message.sampling.temperature = 0;
    message.sampling.max_tokens = max_tokens;
    caf::anon_send(scheduler, std::move(message));
  }

  std::shared_ptr<notes> seen = std::make_shared<notes>();
  test_config config;
  caf::actor_system system;
  caf::scheduler::test_coordinator& coordinator;
  actors::group_watcher watching;
  actors::scheduler_actor scheduler;
};

int failures = 0;
void check(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}

void a_request_is_answered_by_both_ranks() {
  stage on;
  on.give_group(1, false);
  on.ask({10, 11, 12}, 4);
  on.coordinator.run();
  check(on.seen->tokens == std::vector<int32_t>{13, 14, 15, 16}, "the shards count on from the prompt");
  check(on.seen->ends == std::vector{scheduling::end_reason::length}, "the request ends once, at its length");
}

void a_silent_group_is_lost_and_the_next_one_answers() {
  stage on;
  on.give_group(1, true);
  on.ask({20, 21}, 3);
  on.coordinator.run();
  check(on.seen->tokens.empty(), "a silent group gives no token");
  on.coordinator.advance_time(std::chrono::milliseconds{1'100});
  on.coordinator.run();
  check(on.seen->lost_epochs == std::vector<uint64_t>{1}, "the watcher is told once");
  on.give_group(2, false);
  on.coordinator.run();
  check(on.seen->tokens == std::vector<int32_t>{22, 23, 24}, "no token is lost or repeated");
  check(on.seen->ends.size() == 1, "the request ends once");
}

}  // namespace

int main() {
  a_request_is_answered_by_both_ranks();
  a_silent_group_is_lost_and_the_next_one_answers();
  std::printf(failures == 0 ? "all conversations as expected\n" : "%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
