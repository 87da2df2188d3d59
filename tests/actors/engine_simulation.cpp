// Seeded histories of the whole engine: real actors in a random order of messages, requests of every kind,
// cancelled at random, with too few blocks and rows, and shards that die, lie, refuse or fall silent. After
// every message the books must balance; in the end every request has ended once, and whatever was answered is
// what the same request gets alone.
//
//   engine_simulation [--schedules=N] [--seed=N]     with --seed: that one, with every fault printed

#include "engine_on_a_bench.hpp"

#include "actors/errors.hpp"

#include <caf/send.hpp>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

using namespace std::chrono_literals;
using namespace troupe;
using testing::ending;

namespace {

constexpr int32_t steps_max = 40'000;  // activations after which a schedule counts as endless

struct totals {
  int64_t activations = 0, faults = 0, finished = 0, cancelled = 0, failed = 0, rejected = 0, rebuilt = 0;
};

class schedule {
 public:
  schedule(uint64_t seed, bool verbose) : random_(seed), verbose_(verbose), bench_(random_options()) {
    // Losses must not add up to a failed engine: that has tests of its own.
    faults_left_ = static_cast<int32_t>(below(3));
    bench_.fakes().on_step = [this](int32_t rank, actors::step_completed honest) {
      return maybe_lie(rank, std::move(honest));
    };
  }

  /// What went wrong; empty if nothing did.
  std::string run(totals& all) {
    make_requests();
    size_t submitted = 0;
    for (int32_t i = 0; i < steps_max; ++i) {
      if (submitted < requests_.size() && below(6) == 0) bench_.submit(requests_[submitted++]);
      disturb();
      const bool active = bench_.run_one([this](size_t count) { return below(count); });
      ++all.activations;
      if (auto why = bench_.check(); !why.empty()) return why;
      if (!active && submitted == requests_.size()) {
        if (bench_.idle()) break;
        bench_.pass(100ms, 50ms);  // somebody waits for time to pass: a silent shard, a deadline
      }
    }
    bench_.pass(70s, 1s);  // faults are over: within a virtual minute everything must have ended
    return verdict(all);
  }

 private:
  size_t below(size_t count) { return static_cast<size_t>(random_() % count); }

  testing::bench_options random_options() {
    testing::bench_options options;
    options.ranks = 1 + static_cast<int32_t>(below(3));
    options.num_blocks = 26 + static_cast<int32_t>(below(60));
    options.max_num_seqs = 1 + static_cast<int32_t>(below(4));
    options.max_num_batched_tokens = 4 << below(4);
    options.max_num_batched_tokens = std::max(options.max_num_batched_tokens, options.max_num_seqs);
    options.visual_pool_rows = 18 + static_cast<int32_t>(below(30));
    options.max_model_len = 96;
    return options;
  }

  void make_requests() {
    for (size_t count = 2 + below(7); count > 0; --count) {
      const auto tokens = 1 + static_cast<int32_t>(below(24));
      const auto number = std::to_string(below(50));
      requests_.push_back(below(2) == 0
                              ? bench_.picture_request("picture " + std::to_string(below(4)), tokens)
                              : bench_.text_request("What is " + number + " plus 2?", tokens));
      auto& sampling = requests_.back()->sampling;
      if (below(3) == 0) sampling.temperature = 0.7F;
      sampling.seed = random_();
      if (below(4) == 0) sampling.repetition_penalty = 1.2F;
    }
  }

  void disturb() {
    if (below(120) == 0 && !requests_.empty()) {
      const auto& victim = requests_[below(requests_.size())];
      bench_.cancel(victim->id);
    }
    if (faults_left_ > 0 && below(150) == 0) fault();
    if (bench_.fakes().shards_are_silent && below(40) == 0) bench_.fakes().shards_are_silent = false;
  }

  void fault() {
    --faults_left_;
    ++faults_;
    const auto& shards = bench_.seen().shards;
    switch (below(4)) {
      case 0:
        say("a shard dies");
        caf::anon_send_exit(shards[below(shards.size())], caf::exit_reason::kill);
        break;
      case 1:
        say("shards fall silent");
        bench_.fakes().shards_are_silent = true;
        break;
      case 2:
        say("a rank will sample another token");
        lie_ = lie::token;
        break;
      case 3:
        say("a rank will refuse a plan");
        lie_ = lie::refusal;
        break;
    }
  }

  caf::result<actors::step_completed> maybe_lie(int32_t rank, actors::step_completed honest) {
    // Told by one of several ranks; a single rank's false token nobody could notice.
    if (lie_ == lie::refusal) {
      lie_ = lie::none;
      return actors::make_error(actors::engine_error::plan_refused, "told to");
    }
    if (lie_ == lie::token && rank == 1 && !honest.result.tokens.empty()) {
      lie_ = lie::none;
      honest.result.tokens.front() ^= 1;
    }
    return honest;
  }

  std::string verdict(totals& all) {
    all.faults += faults_;
    all.rebuilt += std::ssize(bench_.seen().epochs) - 1;
    for (const auto& request : requests_) {
      const auto& found = bench_.of(request->id);
      if (found.ends != 1)
        return fmt::format("request {} ended {} times, expected once", request->id, found.ends);
      const auto alone = bench_.tokens_alone(*request);
      const bool prefix = found.tokens.size() <= alone.size() &&
                          std::equal(found.tokens.begin(), found.tokens.end(), alone.begin());
      if (!prefix) return fmt::format("request {} was given tokens it does not get alone", request->id);
      if (found.end == ending::finished && found.tokens.size() != alone.size())
        return fmt::format("request {} finished with {} tokens, expected {}", request->id,
                           found.tokens.size(), alone.size());
      all.finished += found.end == ending::finished;
      all.cancelled += found.end == ending::cancelled;
      all.failed += found.end == ending::failed;
      all.rejected += found.end == ending::rejected;
    }
    if (!bench_.idle()) return "blocks, rows or requests are held though everything ended";
    return bench_.check();
  }

  void say(const char* what) const {
    if (verbose_) fmt::print("  {}\n", what);
  }

  enum class lie : uint8_t { none, token, refusal };
  std::mt19937_64 random_;
  bool verbose_;
  testing::engine_bench bench_;
  std::vector<std::shared_ptr<actors::completion_request>> requests_;
  int32_t faults_left_ = 0;
  int32_t faults_ = 0;
  lie lie_ = lie::none;
};

std::optional<uint64_t> number_after(std::string_view word, std::string_view flag) {
  if (!word.starts_with(flag)) return std::nullopt;
  word.remove_prefix(flag.size());
  uint64_t number = 0;
  const auto parsed = std::from_chars(word.data(), word.data() + word.size(), number);
  if (parsed.ec != std::errc{} || parsed.ptr != word.data() + word.size()) return std::nullopt;
  return number;
}

/// Simulates one seed; prints and returns false if anything was wrong.
bool simulate(uint64_t seed, bool verbose, totals& all) {
  const auto why = schedule(seed, verbose).run(all);
  if (!why.empty()) fmt::print("seed {}: {}\n", seed, why);
  return why.empty();
}

}  // namespace

int main(int argc, char** argv) {
  uint64_t first = 1, count = 2'000;
  bool single = false;
  for (int i = 1; i < argc; ++i) {
    if (const auto seed = number_after(argv[i], "--seed=")) {
      first = *seed;
      single = true;
    } else if (const auto schedules = number_after(argv[i], "--schedules=")) {
      count = *schedules;
    } else {
      fmt::print(stderr, "{}: expected --seed=N or --schedules=N\n", argv[i]);
      return 2;
    }
  }
  if (single) count = 1;
  spdlog::set_level(single ? spdlog::level::info : spdlog::level::off);
  totals all;
  uint64_t wrong = 0;
  for (uint64_t seed = first; seed < first + count; ++seed) wrong += !simulate(seed, single, all);
  fmt::print(
      "{} schedules from seed {}: {} activations, {} faults, {} groups rebuilt; {} requests finished, {} "
      "cancelled, {} failed, {} rejected; {} schedules wrong\n",
      count, first, all.activations, all.faults, all.rebuilt, all.finished, all.cancelled, all.failed,
      all.rejected, wrong);
  return wrong == 0 ? 0 : 1;
}
