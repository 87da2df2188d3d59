#include "scheduling/planner_fixture.hpp"

#include <numeric>

namespace troupe::scheduling_test {

planner_fixture::planner_fixture() {
  auto& plan = limits.plan;
  plan.max_num_seqs = 4;
  plan.max_num_batched_tokens = 16;
  plan.max_blocks_per_sequence = 16;
  plan.block_size = 4;
  plan.num_blocks = 41;
  plan.visual_pool_rows = 32;
  plan.max_adjustments = 64;
  plan.vocab_size = 1'000;
  plan.max_model_len = 64;
  plan.token_buckets = plan::make_token_buckets(plan.max_num_batched_tokens);
  limits.end_token_ids = {2};
  limits.max_waiting_requests = 16;
  limits.max_waiting_tokens = 1'000;
  limits.prefix_hashing = {.key = 1};
}

scheduling::new_request planner_fixture::text_request(scheduling::request_id id, int32_t num_tokens,
                                                      int32_t max_tokens) {
  scheduling::new_request request;
  request.id = id;
  request.deadline = scheduling::time_point::max();
  request.sampling.temperature = 0;
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = id;
  auto& ids = request.prompt.token_ids;
  ids.resize(static_cast<size_t>(num_tokens));
  std::iota(ids.begin(), ids.end(), 100 + static_cast<int32_t>(id % 8) * 100);
  for (auto& axis : request.prompt.positions) {
    axis.resize(ids.size());
    std::iota(axis.begin(), axis.end(), 0);
  }
  return request;
}

scheduling::new_request planner_fixture::picture_request(scheduling::request_id id,
                                                         int32_t num_tokens, int32_t max_tokens,
                                                         int32_t first_token, int32_t rows) {
  auto request = text_request(id, num_tokens, max_tokens);
  plan::visual_span span;
  span.first_token = first_token;
  span.num_tokens = rows;
  span.grid_height = 1;
  span.grid_width = rows;
  span.digest[0] = static_cast<uint8_t>(id);
  request.prompt.spans = {span};
  return request;
}

scheduling::step_planner& planner_fixture::planner() {
  if (!made) made.emplace(limits);
  return *made;
}

scheduling::admission_result planner_fixture::submit(scheduling::new_request request) {
  return planner().submit(std::move(request), now);
}

void planner_fixture::submit_text(scheduling::request_id id, int32_t num_tokens,
                                  int32_t max_tokens) {
  const auto result = submit(text_request(id, num_tokens, max_tokens));
  BOOST_REQUIRE_MESSAGE(!result.rejected, result.detail);
}

plan::step_plan planner_fixture::plan_step() {
  BOOST_REQUIRE(can_plan());
  return planned.back();
}

bool planner_fixture::can_plan() {
  auto plan = planner().plan_step();
  BOOST_REQUIRE(planner().check() == "");
  if (!plan) return false;
  const auto found = plan::faults(*plan, limits.plan);
  BOOST_REQUIRE_MESSAGE(found.empty(), (found.empty() ? "" : found.front()));
  planned.push_back(*std::move(plan));
  return true;
}

void planner_fixture::complete(int32_t token) {
  BOOST_REQUIRE(!planned.empty());
  complete_with(std::vector<int32_t>(planned.front().logit_rows.size(), token));
}

void planner_fixture::complete_with(std::vector<int32_t> tokens) {
  BOOST_REQUIRE(!planned.empty());
  const auto& oldest = planned.front();
  plan::step_result result;
  result.epoch = oldest.epoch;
  result.step = oldest.step;
  result.content = oldest.content;
  result.tokens = std::move(tokens);
  BOOST_REQUIRE(planner().complete(result));
  planned.erase(planned.begin());
  BOOST_REQUIRE(planner().check() == "");
}

void planner_fixture::run_steps(int32_t steps, int32_t token) {
  for (int32_t i = 0; i < steps; ++i) {
    plan_step();
    complete(token);
  }
}

void planner_fixture::collect() {
  for (auto& event : planner().take_events()) events.push_back(std::move(event));
}

std::vector<scheduling::planner_event> planner_fixture::take_events() {
  collect();
  return std::exchange(events, {});
}

std::vector<scheduling::request_id> planner_fixture::ended(scheduling::end_reason reason) {
  collect();
  std::vector<scheduling::request_id> ids;
  for (const auto& event : events)
    if (const auto* end = std::get_if<scheduling::request_ended>(&event))
      if (end->reason == reason) ids.push_back(end->id);
  return ids;
}

std::vector<int32_t> planner_fixture::tokens_of(scheduling::request_id id) {
  collect();
  std::vector<int32_t> tokens;
  for (const auto& event : events)
    if (const auto* token = std::get_if<scheduling::token_generated>(&event))
      if (token->id == id) tokens.push_back(token->token);
  return tokens;
}

std::optional<scheduling::request_ended> planner_fixture::end_of(scheduling::request_id id) {
  collect();
  for (const auto& event : events)
    if (const auto* end = std::get_if<scheduling::request_ended>(&event))
      if (end->id == id) return *end;
  return std::nullopt;
}

std::vector<int32_t> chunk_sizes(const plan::step_plan& plan) {
  std::vector<int32_t> sizes;
  for (size_t i = 0; i + 1 < plan.query_start.size(); ++i)
    sizes.push_back(plan.query_start[i + 1] - plan.query_start[i]);
  return sizes;
}

}  // namespace troupe::scheduling_test
