#include "simulation/request_maker.hpp"

#include <algorithm>

namespace troupe::simulation {
namespace {

constexpr int32_t vocab_size = 40;
constexpr int32_t pad_token = 39;  // where visual rows go
constexpr int32_t num_pieces = 6;
constexpr size_t conversations_max = 8;

}  // namespace

int32_t pick(random_engine& random, int32_t low, int32_t high) {
  return low + static_cast<int32_t>(random() % static_cast<uint64_t>(high - low + 1));
}

bool chance(random_engine& random, int32_t percent) {
  return pick(random, 1, 100) <= percent;
}

scheduling::planner_limits make_limits(random_engine& random) {
  scheduling::planner_limits limits;
  auto& plan = limits.plan;
  plan.block_size = pick(random, 1, 5);
  plan.max_model_len = pick(random, 30, 80);
  plan.max_blocks_per_sequence =
      static_cast<int32_t>((plan.max_model_len + plan.block_size - 1) / plan.block_size);
  const int32_t smallest_pool =
      chance(random, 20) ? plan.max_blocks_per_sequence / 2 : plan.max_blocks_per_sequence;
  plan.num_blocks =
      1 + pick(random, std::max(2, smallest_pool), plan.max_blocks_per_sequence * 3 / 2);
  plan.max_num_seqs = pick(random, 1, 10);
  plan.max_num_batched_tokens = pick(random, 1, 30);
  plan.token_buckets = plan::make_token_buckets(plan.max_num_batched_tokens);
  plan.visual_pool_rows = pick(random, 8, 40);
  plan.vocab_size = vocab_size;
  plan.max_adjustments = chance(random, 30) ? pick(random, 4, 30) : pick(random, 40, 200);
  limits.end_token_ids = {3, 17};
  limits.max_waiting_requests = pick(random, 4, 20);
  limits.max_waiting_tokens = pick(random, 60, 600);
  limits.max_prefill_tokens_beside_decode = chance(random, 30) ? pick(random, 1, 10) : 0;
  limits.max_preemptions = pick(random, 0, 3);
  limits.max_replays = pick(random, 0, 3);
  limits.prefix_cache = chance(random, 90);
  const int32_t hash_bits[] = {0, 2, 8, 128};
  limits.prefix_hashing = {.key = random(), .bits = hash_bits[pick(random, 0, 3)]};
  return limits;
}

request_maker::request_maker(random_engine& random, const plan::plan_limits& limits)
    : random_(random), limits_(limits) {
  for (uint8_t i = 0; i < 6; ++i) {
    media_template media;
    media.groups = i < 4 ? 1 : 2;
    media.grid_height = pick(random_, 1, 3);
    media.grid_width = pick(random_, 1, 3);
    media.digest[31] = i;  // equal in the first bytes: a digest cut short would not tell them apart
    media_.push_back(media);
  }
  // Two pictures of one shape, which only their digests tell apart.
  media_[1].grid_height = media_[0].grid_height;
  media_[1].grid_width = media_[0].grid_width;
}

scheduling::new_request request_maker::make(scheduling::request_id id) {
  scheduling::new_request request;
  request.id = id;
  request.prompt = make_prompt();
  place_tokens(request.prompt);
  request.sampling = make_sampling(id);
  return request;
}

void request_maker::remember(const plan::prompt& prompt, const std::vector<int32_t>& answer) {
  auto conversation = prompt;
  conversation.token_ids.insert(conversation.token_ids.end(), answer.begin(), answer.end());
  if (conversations_.size() < conversations_max)
    conversations_.push_back(std::move(conversation));
  else
    conversations_[static_cast<size_t>(pick(random_, 0, conversations_max - 1))] = conversation;
}

plan::prompt request_maker::make_prompt() {
  plan::prompt prompt;
  if (!conversations_.empty() && chance(random_, 30)) {
    const auto last = static_cast<int32_t>(conversations_.size()) - 1;
    prompt = conversations_[static_cast<size_t>(pick(random_, 0, last))];
  }
  const int32_t pieces = pick(random_, 1, 3);
  // Low pieces are likelier: prompts often begin alike.
  for (int32_t i = 0; i < pieces; ++i)
    append_piece(prompt, std::min(pick(random_, 0, num_pieces - 1), pick(random_, 0, num_pieces)));
  return prompt;
}

void request_maker::append_piece(plan::prompt& prompt, int32_t piece) {
  if (chance(random_, 40)) {
    append_media(prompt, media_[static_cast<size_t>(pick(random_, 0, 5))]);
    return;
  }
  const int32_t length = 1 + piece * 2;
  for (int32_t i = 0; i < length; ++i) prompt.token_ids.push_back((piece * 7 + i * 5) % pad_token);
}

void request_maker::append_media(plan::prompt& prompt, const media_template& media) {
  const int32_t media_index = prompt.spans.empty() ? 0 : prompt.spans.back().media_index + 1;
  for (int32_t group = 0; group < media.groups; ++group) {
    if (group > 0) prompt.token_ids.push_back(5);
    const int32_t tokens = media.grid_height * media.grid_width;
    prompt.spans.push_back({.first_token = static_cast<int32_t>(prompt.token_ids.size()),
                            .num_tokens = tokens,
                            .media_index = media_index,
                            .first_row = group * tokens,
                            .grid_height = media.grid_height,
                            .grid_width = media.grid_width,
                            .digest = media.digest});
    prompt.token_ids.insert(prompt.token_ids.end(), static_cast<size_t>(tokens), pad_token);
  }
}

plan::sampling_params request_maker::make_sampling(scheduling::request_id id) {
  plan::sampling_params sampling;
  sampling.seed = id;
  sampling.temperature = chance(random_, 50) ? 0.F : 1.F;
  sampling.max_tokens = pick(random_, 1, 20);
  if (chance(random_, 20)) sampling.min_tokens = pick(random_, 0, sampling.max_tokens);
  sampling.ignore_eos = chance(random_, 50);
  if (chance(random_, 20)) sampling.stop_token_ids = {pick(random_, 0, vocab_size - 1), 11};
  if (chance(random_, 25)) sampling.frequency_penalty = 0.5F;
  if (chance(random_, 10)) sampling.presence_penalty = -0.5F;
  if (chance(random_, 25)) sampling.repetition_penalty = 1.5F;
  if (chance(random_, 20)) sampling.logit_bias = {{pick(random_, 0, 20), 2.F}, {21, -1e9F}};
  if (chance(random_, 20)) sampling.num_logprobs = pick(random_, 0, plan::max_logprobs);
  return sampling;
}

void place_tokens(plan::prompt& prompt) {
  const auto tokens = static_cast<int32_t>(prompt.token_ids.size());
  for (auto& axis : prompt.positions) axis.assign(static_cast<size_t>(tokens), 0);
  const auto put = [&](int32_t token, int32_t t, int32_t h, int32_t w) {
    prompt.positions[0][static_cast<size_t>(token)] = t;
    prompt.positions[1][static_cast<size_t>(token)] = h;
    prompt.positions[2][static_cast<size_t>(token)] = w;
  };
  int32_t position = 0, token = 0;
  auto span = prompt.spans.begin();
  while (token < tokens) {
    if (span == prompt.spans.end() || token < span->first_token) {
      put(token++, position, position, position);
      ++position;
      continue;
    }
    for (int32_t row = 0; row < span->grid_height; ++row)
      for (int32_t column = 0; column < span->grid_width; ++column)
        put(token++, position, position + row, position + column);
    position += std::max(span->grid_height, span->grid_width);
    ++span;
  }
  prompt.rope_delta = position - tokens;
}

}  // namespace troupe::simulation
