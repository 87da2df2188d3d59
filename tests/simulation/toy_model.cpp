#include "simulation/toy_model.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <bit>

namespace troupe::simulation {
namespace {

constexpr float banned_below = -1e8F;  // biases under this forbid a token

/// What sampling knows about one token id.
struct token_state {
  int32_t generated_count = 0;
  int32_t seen = 0;
  float bias = 0;
};

struct penalties {
  float frequency, presence, repetition;
  bool count_matters() const { return frequency != 0 || presence != 0; }
  bool seen_matters() const { return repetition != 1; }
};

hash_value token_value(int32_t id) {
  return mix(0x7061, static_cast<hash_value>(id));
}

hash_value kv_value(hash_value input, int32_t t, int32_t h, int32_t w, hash_value before) {
  hash_value value = mix(input, before);
  for (const int32_t position : {t, h, w}) value = mix(value, static_cast<hash_value>(position));
  return value;
}

/// The token after a context with hash `hidden`, under sampling settings that leave a mark on it.
int32_t sample(hash_value hidden, uint64_t seed, int64_t position, float temperature,
               const penalties& with, const std::vector<token_state>& states) {
  hash_value value = mix(mix(hidden, seed), static_cast<hash_value>(position));
  value = mix(value, std::bit_cast<uint32_t>(temperature));
  for (const auto& state : states) {
    const bool banned = state.bias < banned_below;
    value = mix(value, with.count_matters() ? static_cast<hash_value>(state.generated_count) : 0);
    value = mix(value, with.seen_matters() ? static_cast<hash_value>(state.seen) : 0);
    value = mix(value, banned ? 0 : std::bit_cast<uint32_t>(state.bias));
  }
  for (size_t i = 0; i < states.size(); ++i) {
    const size_t candidate = (value + i) % states.size();
    if (states[candidate].bias >= banned_below) return static_cast<int32_t>(candidate);
  }
  return 0;
}

bool is_broken(std::span<const broken_logits> broken, uint64_t seed, int64_t position) {
  return std::ranges::any_of(
      broken, [&](const auto& b) { return b.seed == seed && b.position == position; });
}

}  // namespace

hash_value mix(hash_value a, hash_value b) {
  hash_value value = a * 0x9e3779b97f4a7c15U + b + 0x632be59bd9b4e019U;
  value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9U;
  value = (value ^ (value >> 27)) * 0x94d049bb133111ebU;
  return value ^ (value >> 31);
}

hash_value visual_row_value(const plan::media_digest& digest, int32_t row) {
  hash_value value = 0x7069;
  for (const uint8_t byte : digest) value = mix(value, byte);
  return mix(value, static_cast<hash_value>(row));
}

toy_shard::toy_shard(const plan::plan_limits& limits)
    : limits_(limits),
      kv_(static_cast<size_t>(limits.num_blocks) * static_cast<size_t>(limits.block_size), 0xbad),
      poisoned_(static_cast<size_t>(limits.num_blocks)) {}

void toy_shard::clear_blocks(const plan::step_plan& plan) {
  for (const int32_t block : plan.cleared_blocks) {
    poisoned_[static_cast<size_t>(block)] = false;
    std::fill_n(kv_.begin() + static_cast<ptrdiff_t>(block) * limits_.block_size,
                limits_.block_size, 0);
  }
  for (const int32_t slot : plan.slot_mapping)
    config::ensure(slot % limits_.block_size != 0 ||
                       !poisoned_[static_cast<size_t>(slot / limits_.block_size)],
                   "step {} begins block {}, which a broken sequence left behind", plan.step,
                   slot / limits_.block_size);
}

void toy_shard::poison_blocks(const plan::step_plan& plan, int32_t row) {
  const int32_t token = plan.logit_rows[static_cast<size_t>(row)];
  size_t sequence = 0;
  while (plan.query_start[sequence + 1] <= token) ++sequence;
  const auto width = static_cast<size_t>(plan.max_blocks_per_sequence);
  for (size_t i = sequence * width; i < (sequence + 1) * width; ++i)
    if (plan.block_tables[i] > 0) poisoned_[static_cast<size_t>(plan.block_tables[i])] = true;
}

void toy_shard::run_sequence(const plan::step_plan& plan, size_t sequence,
                             const visual_pool_values& pool, std::vector<hash_value>& hidden) {
  const auto tokens = static_cast<size_t>(plan.num_tokens());
  const int32_t* table =
      plan.block_tables.data() + sequence * static_cast<size_t>(plan.max_blocks_per_sequence);
  const auto key = [&](int32_t index) {
    return kv_[static_cast<size_t>(table[index / limits_.block_size] * limits_.block_size +
                                   index % limits_.block_size)];
  };
  const int32_t begin = plan.query_start[sequence], end = plan.query_start[sequence + 1];
  const int32_t first = plan.context_lengths[sequence] - (end - begin);
  hash_value before = 0;
  for (int32_t index = 0; index < first; ++index) before = mix(before, key(index));
  for (int32_t token = begin; token < end; ++token) {
    const auto i = static_cast<size_t>(token);
    const int32_t row = plan.row_map[i];
    const hash_value input =
        row >= 0 ? pool[static_cast<size_t>(row)] : token_value(resolved_ids_[i]);
    kv_[static_cast<size_t>(plan.slot_mapping[i])] =
        kv_value(input, plan.positions[i], plan.positions[tokens + i],
                 plan.positions[2 * tokens + i], before);
    before = mix(before, key(first + token - begin));
    hidden[i] = before;
  }
}

plan::step_result toy_shard::run(const plan::step_plan& plan, const visual_pool_values& pool,
                                 std::span<const broken_logits> broken) {
  resolved_ids_.clear();
  for (const int32_t id : plan.token_ids) {
    config::ensure(id >= 0 || static_cast<size_t>(-1 - id) < sampled_.size(),
                   "token refers to row {} of a step with {} rows", -1 - id, sampled_.size());
    // A row whose logits were broken has no token; what follows it is dropped, but must not fault.
    resolved_ids_.push_back(id >= 0 ? id : std::max(0, sampled_[static_cast<size_t>(-1 - id)]));
  }
  clear_blocks(plan);
  std::vector<hash_value> hidden(plan.token_ids.size());
  for (size_t s = 0; s < plan.context_lengths.size(); ++s) run_sequence(plan, s, pool, hidden);

  plan::step_result result;
  result.epoch = plan.epoch;
  result.step = plan.step;
  result.content = compute_digest(plan);
  for (size_t row = 0; row < plan.logit_rows.size(); ++row) {
    const auto& settings = plan.sampling[row];
    std::vector<token_state> states(static_cast<size_t>(limits_.vocab_size));
    for (const auto& entry : plan.adjustments)
      if (static_cast<size_t>(entry.row) == row)
        states[static_cast<size_t>(entry.token)] = {entry.generated_count, entry.seen, entry.bias};
    if (settings.input_index >= 0) {
      auto& pending =
          states[static_cast<size_t>(resolved_ids_[static_cast<size_t>(settings.input_index)])];
      ++pending.generated_count;
      pending.seen = 1;
    }
    const penalties with{settings.frequency_penalty, settings.presence_penalty,
                         settings.repetition_penalty};
    const bool fails = is_broken(broken, settings.seed, settings.position);
    if (fails) poison_blocks(plan, static_cast<int32_t>(row));
    result.tokens.push_back(fails ? -1
                                  : sample(hidden[static_cast<size_t>(plan.logit_rows[row])],
                                           settings.seed, settings.position, settings.temperature,
                                           with, states));
    auto& logprobs = result.logprobs.emplace_back();
    if (settings.num_logprobs >= 0) logprobs.sampled = -static_cast<float>(result.tokens.back());
  }
  sampled_ = result.tokens;
  return result;
}

solo_run run_alone(const plan::prompt& prompt, const plan::sampling_params& sampling,
                   std::span<const int32_t> end_token_ids, int32_t vocab_size,
                   std::span<const broken_logits> broken) {
  const penalties with{sampling.frequency_penalty, sampling.presence_penalty,
                       sampling.repetition_penalty};
  std::vector<token_state> states(static_cast<size_t>(vocab_size));
  for (const auto& [token, bias] : sampling.logit_bias)
    states[static_cast<size_t>(token)].bias += bias;
  std::vector<bool> stops(static_cast<size_t>(vocab_size));
  for (const int32_t id : sampling.stop_token_ids) stops[static_cast<size_t>(id)] = true;
  if (!sampling.ignore_eos)
    for (const int32_t id : end_token_ids) stops[static_cast<size_t>(id)] = true;

  std::vector<hash_value> inputs;
  for (const int32_t id : prompt.token_ids) {
    inputs.push_back(token_value(id));
    states[static_cast<size_t>(id)].seen = 1;
  }
  for (const auto& span : prompt.spans)
    for (int32_t i = 0; i < span.num_tokens; ++i)
      inputs[static_cast<size_t>(span.first_token + i)] =
          visual_row_value(span.digest, span.first_row + i);

  hash_value before = 0;
  const auto extend = [&](hash_value input, int32_t t, int32_t h, int32_t w) {
    before = mix(before, kv_value(input, t, h, w, before));
  };
  for (size_t i = 0; i < inputs.size(); ++i)
    extend(inputs[i], prompt.positions[0][i], prompt.positions[1][i], prompt.positions[2][i]);

  solo_run run;
  const auto prompt_tokens = static_cast<int32_t>(prompt.token_ids.size());
  for (int32_t index = 0; index < sampling.max_tokens; ++index) {
    const int32_t place = prompt_tokens + index;
    if (is_broken(broken, sampling.seed, place)) {
      run.broken = true;
      return run;
    }
    auto allowed = states;
    if (index < sampling.min_tokens)
      for (size_t id = 0; id < stops.size(); ++id)
        if (stops[id]) allowed[id].bias = 2 * banned_below;
    const int32_t token = sample(before, sampling.seed, place, sampling.temperature, with, allowed);
    run.tokens.push_back(token);
    if (index >= sampling.min_tokens && stops[static_cast<size_t>(token)]) {
      run.stopped = true;
      return run;
    }
    ++states[static_cast<size_t>(token)].generated_count;
    states[static_cast<size_t>(token)].seen = 1;
    const int32_t position = place + prompt.rope_delta;
    extend(token_value(token), position, position, position);
  }
  return run;
}

}  // namespace troupe::simulation
