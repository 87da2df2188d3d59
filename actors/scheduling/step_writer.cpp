#include "actors/scheduling/step_writer.hpp"

#include "config/ensure.hpp"

#include <algorithm>
#include <utility>

namespace troupe::scheduling {
namespace {

size_t index(int32_t value) {
  return static_cast<size_t>(value);
}

int32_t blocks_used(const chunk& part, int32_t block_size) {
  return (part.first_token + part.num_tokens + block_size - 1) / block_size;
}

/// Sizes all arrays of the plan at once: one allocation each.
void reserve(plan::step_plan& plan, std::span<const chunk> chunks, int32_t block_size) {
  size_t tokens = 0, rows = 0, adjustments = 0;
  for (const auto& part : chunks) {
    tokens += index(part.num_tokens);
    plan.max_blocks_per_sequence =
        std::max(plan.max_blocks_per_sequence, blocks_used(part, block_size));
    if (part.row < 0) continue;
    ++rows;
    adjustments += index(part.request->history.size());
  }
  plan.token_ids.resize(tokens);
  plan.positions.resize(3 * tokens);
  plan.slot_mapping.resize(tokens);
  plan.row_map.resize(tokens);
  plan.query_start.reserve(chunks.size() + 1);
  plan.context_lengths.reserve(chunks.size());
  plan.block_tables.resize(chunks.size() * index(plan.max_blocks_per_sequence));
  plan.logit_rows.reserve(rows);
  plan.sampling.reserve(rows);
  plan.adjustments.reserve(adjustments);
}

void write_token_ids(plan::step_plan& plan, const chunk& part, int32_t offset) {
  const auto& request = *part.request;
  const int32_t known = std::min(part.num_tokens, request.known_tokens() - part.first_token);
  std::copy_n(request.tokens.begin() + part.first_token, known, plan.token_ids.begin() + offset);
  if (known == part.num_tokens) return;
  config::ensure(known == part.num_tokens - 1 && request.last_row >= 0,
                 "request {} plans {} tokens of which {} are known", request.id, part.num_tokens,
                 known);
  plan.token_ids[index(offset + known)] = -1 - request.last_row;
}

void write_positions(plan::step_plan& plan, const chunk& part, int32_t offset) {
  const auto& request = *part.request;
  const int32_t end = part.first_token + part.num_tokens;
  for (int32_t axis = 0; axis < 3; ++axis) {
    const auto& prompt = request.prompt_positions[index(axis)];
    auto* out = plan.positions.data() + axis * plan.num_tokens() + offset;
    int32_t token = part.first_token;
    for (; token < std::min(end, request.prompt_tokens); ++token) *out++ = prompt[index(token)];
    for (; token < end; ++token) *out++ = token + request.rope_delta;
  }
}

void write_slots(plan::step_plan& plan, const chunk& part, int32_t offset, int32_t block_size) {
  const auto& blocks = part.request->blocks.blocks();
  for (int32_t i = 0; i < part.num_tokens; ++i) {
    const int32_t token = part.first_token + i;
    plan.slot_mapping[index(offset + i)] =
        blocks[index(token / block_size)] * block_size + token % block_size;
  }
}

void write_sequence(plan::step_plan& plan, const chunk& part, int32_t offset, int32_t block_size) {
  const auto& blocks = part.request->blocks.blocks();
  const int32_t used = blocks_used(part, block_size);
  config::ensure(used <= std::ssize(blocks), "request {} has {} blocks, expected {}",
                 part.request->id, blocks.size(), used);
  std::copy_n(
      blocks.begin(), used,
      plan.block_tables.begin() + std::ssize(plan.context_lengths) * plan.max_blocks_per_sequence);
  plan.context_lengths.push_back(part.first_token + part.num_tokens);
  plan.query_start.push_back(offset + part.num_tokens);
}

void write_row(plan::step_plan& plan, const chunk& part, int32_t offset) {
  const auto& request = *part.request;
  const auto& sampling = request.sampling;
  const int32_t last = offset + part.num_tokens - 1;
  const bool input_unknown = request.pending_tokens > 0;
  plan.logit_rows.push_back(last);
  plan.sampling.push_back(
      {.temperature = sampling.temperature,
       .top_p = sampling.top_p,
       .min_p = sampling.min_p,
       .top_k = sampling.top_k,
       .frequency_penalty = sampling.frequency_penalty,
       .presence_penalty = sampling.presence_penalty,
       .repetition_penalty = sampling.repetition_penalty,
       .num_logprobs = sampling.num_logprobs,
       .seed = sampling.seed,
       .position = part.first_token + part.num_tokens,
       .input_index = input_unknown && request.history.counts_generated() ? last : -1});
  request.history.append(plan.adjustments, part.row,
                         request.generated_tokens() + request.pending_tokens);
}

}  // namespace

plan::step_plan write_step(std::span<const chunk> chunks, std::vector<int32_t> cleared_blocks,
                           const plan::plan_limits& limits, uint64_t epoch, uint64_t step) {
  plan::step_plan plan;
  plan.cleared_blocks = std::move(cleared_blocks);
  plan.epoch = epoch;
  plan.step = step;
  reserve(plan, chunks, limits.block_size);
  plan.bucket_tokens = limits.bucket_for(plan.num_tokens());
  plan.query_start.push_back(0);
  for (const auto& part : chunks) {
    const int32_t offset = plan.query_start.back();
    write_token_ids(plan, part, offset);
    write_positions(plan, part, offset);
    write_slots(plan, part, offset, limits.block_size);
    part.request->visual.fill_row_map(
        std::span(plan.row_map).subspan(index(offset), index(part.num_tokens)), part.first_token,
        part.request->pool_rows);
    write_sequence(plan, part, offset, limits.block_size);
    if (part.row >= 0) write_row(plan, part, offset);
  }
  plan.content = compute_digest(plan);
  return plan;
}

}  // namespace troupe::scheduling
