#include "actors/scheduling/admission.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

namespace troupe::scheduling {
namespace {

template <class... Args>
refusal refuse(rejection reason, fmt::format_string<Args...> format, Args&&... args) {
  return {.reason = reason, .detail = fmt::format(format, std::forward<Args>(args)...)};
}

std::optional<refusal> check_prompt(const plan::prompt& prompt, const plan::plan_limits& limits) {
  const auto& ids = prompt.token_ids;
  if (ids.empty()) return refuse(rejection::malformed, "prompt is empty, expected a token");
  for (const auto& axis : prompt.positions) {
    if (axis.size() != ids.size())
      return refuse(rejection::malformed, "{} positions for {} tokens", axis.size(), ids.size());
    // A picture's tokens share positions; nothing is ever ahead of its place.
    for (size_t i = 0; i < axis.size(); ++i)
      if (axis[i] < 0 || std::cmp_greater(axis[i], i))
        return refuse(rejection::malformed, "token {} has position {}, expected 0 to {}", i,
                      axis[i], i);
  }
  for (const int32_t id : ids)
    if (id < 0 || id >= limits.vocab_size)
      return refuse(rejection::malformed, "prompt token {}, expected 0 to {}", id,
                    limits.vocab_size - 1);
  if (prompt.rope_delta > 0 || std::ssize(ids) + prompt.rope_delta < 0)
    return refuse(rejection::malformed, "rope delta {}, expected {} to 0", prompt.rope_delta,
                  -std::ssize(ids));
  return std::nullopt;
}

std::optional<refusal> check_spans(const plan::prompt& prompt) {
  int64_t covered = 0;
  for (const auto& span : prompt.spans) {
    const int64_t end = int64_t{span.first_token} + span.num_tokens;
    if (span.first_token < covered || span.num_tokens < 1 || end > std::ssize(prompt.token_ids) ||
        span.first_row < 0)
      return refuse(rejection::malformed,
                    "visual span of {} tokens at {} (row {}), expected at least 1 within {} to {}",
                    span.num_tokens, span.first_token, span.first_row, covered,
                    prompt.token_ids.size());
    covered = end;
  }
  return std::nullopt;
}

std::optional<refusal> check_ids(const plan::sampling_params& sampling, int32_t vocab_size) {
  const auto outside = [&](int32_t id) { return id < 0 || id >= vocab_size; };
  for (const int32_t id : sampling.stop_token_ids)
    if (outside(id))
      return refuse(rejection::malformed, "stop token {}, expected 0 to {}", id, vocab_size - 1);
  for (const auto& [id, bias] : sampling.logit_bias)
    if (outside(id) || !std::isfinite(bias))
      return refuse(rejection::malformed, "bias {} of token {}, expected a finite one of 0 to {}",
                    bias, id, vocab_size - 1);
  return std::nullopt;
}

std::optional<refusal> check_sampling(const plan::sampling_params& sampling) {
  struct range {
    std::string_view name;
    double value, low, high;
  };
  const range ranges[] = {
      {"temperature", sampling.temperature, 0, 2},
      {"top_p", sampling.top_p, 0, 1},
      {"min_p", sampling.min_p, 0, 1},
      {"top_k", static_cast<double>(sampling.top_k), 0, 2'147'483'647},
      {"frequency_penalty", sampling.frequency_penalty, -2, 2},
      {"presence_penalty", sampling.presence_penalty, -2, 2},
      {"repetition_penalty", sampling.repetition_penalty, 0, 10},
      {"max_tokens", static_cast<double>(sampling.max_tokens), 1, 2'147'483'647},
      {"min_tokens", static_cast<double>(sampling.min_tokens), 0,
       static_cast<double>(sampling.max_tokens)},
      {"num_logprobs", static_cast<double>(sampling.num_logprobs), -1, plan::max_logprobs},
  };
  for (const auto& [name, value, low, high] : ranges)
    if (!(value >= low && value <= high))  // also true for a NaN
      return refuse(rejection::malformed, "{} is {}, expected {} to {}", name, value, low, high);
  return std::nullopt;
}

}  // namespace

int32_t blocks_for(int64_t tokens, int32_t block_size) {
  return static_cast<int32_t>((tokens + block_size - 1) / block_size);
}

std::optional<refusal> find_malformation(const new_request& request, const planner_limits& limits) {
  if (auto fault = check_prompt(request.prompt, limits.plan)) return fault;
  if (auto fault = check_spans(request.prompt)) return fault;
  if (auto fault = check_sampling(request.sampling)) return fault;
  return check_ids(request.sampling, limits.plan.vocab_size);
}

std::optional<refusal> find_misfit(const request_state& request, const planner_limits& limits) {
  const auto& plan = limits.plan;
  const int64_t length = int64_t{request.prompt_tokens} + request.sampling.max_tokens;
  if (length > plan.max_model_len)
    return refuse(rejection::too_long,
                  "{} prompt tokens and {} to generate are over the context of {}",
                  request.prompt_tokens, request.sampling.max_tokens, plan.max_model_len);
  const int32_t blocks = blocks_for(request.tokens_max(), plan.block_size);
  const int32_t blocks_max = std::min(plan.num_blocks - 1, plan.max_blocks_per_sequence);
  if (blocks > blocks_max)
    return refuse(rejection::too_long,
                  "{} prompt tokens and {} to generate need {} KV blocks, a request can have {}",
                  request.prompt_tokens, request.sampling.max_tokens, blocks, blocks_max);
  const int64_t rows = request.visual.num_distinct_rows();
  if (rows > plan.visual_pool_rows)
    return refuse(rejection::too_many_visual_rows, "pictures need {} visual rows, the pool has {}",
                  rows, plan.visual_pool_rows);
  const int64_t adjustments =
      request.history.size_max(request.sampling.max_tokens, plan.vocab_size);
  if (adjustments > plan.max_adjustments)
    return refuse(rejection::too_many_adjustments,
                  "penalties and bias touch up to {} token ids, a step can carry {}", adjustments,
                  plan.max_adjustments);
  return std::nullopt;
}

}  // namespace troupe::scheduling
