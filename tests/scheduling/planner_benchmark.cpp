// What one planned step costs on the scheduler's thread: plan_step, complete and the events, for 64
// decoding sequences with two steps in flight. Prints medians; no device, no messages.
#include "actors/scheduling/step_planner.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <numeric>
#include <vector>

namespace {

namespace plan = troupe::plan;
using namespace troupe::scheduling;
using clock_type = std::chrono::steady_clock;

constexpr int32_t num_sequences = 64;
constexpr int32_t prompt_tokens = 512;
constexpr int32_t measured_steps = 2'000;

planner_limits limits_for(int32_t max_model_len) {
  planner_limits limits;
  auto& plan = limits.plan;
  plan.max_num_seqs = num_sequences;
  plan.max_num_batched_tokens = 2'048;
  plan.block_size = 16;
  plan.max_model_len = max_model_len;
  plan.max_blocks_per_sequence = max_model_len / plan.block_size;
  plan.num_blocks = num_sequences * 4'096 / plan.block_size + 1;
  plan.visual_pool_rows = 1'024;
  plan.max_adjustments = 4'096;
  plan.vocab_size = 151'936;
  plan.token_buckets = plan::make_token_buckets(plan.max_num_batched_tokens);
  limits.max_waiting_requests = num_sequences;
  limits.max_waiting_tokens = num_sequences * prompt_tokens;
  return limits;
}

new_request make_request(request_id id) {
  new_request request;
  request.id = id;
  request.deadline = time_point::max();
  request.sampling.max_tokens = measured_steps + 100;
  request.prompt.token_ids.resize(prompt_tokens);
  std::iota(request.prompt.token_ids.begin(), request.prompt.token_ids.end(),
            static_cast<int32_t>(id) * prompt_tokens);
  for (auto& axis : request.prompt.positions) {
    axis.resize(prompt_tokens);
    std::iota(axis.begin(), axis.end(), 0);
  }
  return request;
}

plan::step_result result_of(const plan::step_plan& step) {
  plan::step_result result;
  result.epoch = step.epoch;
  result.step = step.step;
  result.content = step.content;
  result.tokens.assign(step.logit_rows.size(), 7);
  return result;
}

double median_us(std::vector<double>& samples) {
  std::ranges::nth_element(samples, samples.begin() + std::ssize(samples) / 2);
  return samples[samples.size() / 2];
}

void measure(int32_t max_model_len) {
  step_planner planner(limits_for(max_model_len));
  for (request_id id = 1; id <= num_sequences; ++id) planner.submit(make_request(id), {});
  std::deque<plan::step_plan> in_flight;
  std::vector<double> planning, completing;
  for (int32_t step = 0; step < measured_steps; ++step) {
    const auto start = clock_type::now();
    auto planned = planner.plan_step();
    const auto end = clock_type::now();
    const bool decodes = planned && planned->num_tokens() == num_sequences;
    if (planned) in_flight.push_back(*std::move(planned));
    if (decodes) planning.push_back(std::chrono::duration<double, std::micro>(end - start).count());
    if (in_flight.size() < 2) continue;
    const auto result = result_of(in_flight.front());
    in_flight.pop_front();
    const auto begin = clock_type::now();
    planner.complete(result);
    const auto events = planner.take_events();
    const auto done = clock_type::now();
    if (events.size() == num_sequences)
      completing.push_back(std::chrono::duration<double, std::micro>(done - begin).count());
  }
  fmt::print("context {:>6}: plan_step {:5.1f} us, complete {:5.1f} us ({} decodes)\n",
             max_model_len, median_us(planning), median_us(completing), num_sequences);
}

}  // namespace

int main() {
  for (const int32_t max_model_len : {4'096, 32'768, 131'072}) measure(max_model_len);
}
