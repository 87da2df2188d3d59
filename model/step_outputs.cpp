#include "model/step_outputs.hpp"

#include <algorithm>

namespace troupe::model {
namespace {

/// Bytes from the first field to the end of `last`.
int64_t bytes_through(const gpu::sampling_output& sampled, const gpu::tensor_view& last) {
  return last.data + last.span_bytes() - sampled.tokens.data;
}

bool wants_logprobs(const plan::step_plan& plan) {
  return std::any_of(plan.sampling.begin(), plan.sampling.end(),
                     [](const plan::sampling_row& row) { return row.num_logprobs >= 0; });
}

}  // namespace

step_outputs::step_outputs(gpu::operations& backend, const gpu::sampling_output& sampled)
    : sampled_(sampled),
      staging_(backend.host_staging(bytes_through(sampled, sampled.top_logprobs))) {}

void step_outputs::fetch(gpu::operations& backend, const plan::step_plan& plan) {
  const auto& last = wants_logprobs(plan) ? sampled_.top_logprobs : sampled_.tokens;
  const int64_t bytes = bytes_through(sampled_, last);
  backend.download(staging_.get(), gpu::make_view(sampled_.tokens.data, gpu::dtype::u8, bytes),
                   bytes);
}

plan::step_result step_outputs::result_of(const plan::step_plan& plan) const {
  const auto rows = static_cast<size_t>(plan.num_rows());
  plan::step_result result;
  result.epoch = plan.epoch;
  result.step = plan.step;
  result.content = plan.content;
  result.tokens.assign(host<int32_t>(sampled_.tokens), host<int32_t>(sampled_.tokens) + rows);
  result.logprobs.resize(rows);
  for (size_t row = 0; row < rows; ++row)
    if (const int32_t alternatives = plan.sampling[row].num_logprobs; alternatives >= 0)
      result.logprobs[row] = logprobs_of(static_cast<int32_t>(row), alternatives);
  return result;
}

plan::token_logprobs step_outputs::logprobs_of(int32_t row, int32_t alternatives) const {
  const auto* tokens = host<int32_t>(sampled_.top_tokens, row);
  const auto* values = host<float>(sampled_.top_logprobs, row);
  plan::token_logprobs logprobs;
  logprobs.sampled = host<float>(sampled_.logprobs)[row];
  logprobs.top_tokens.assign(tokens, tokens + alternatives);
  logprobs.top_values.assign(values, values + alternatives);
  return logprobs;
}

}  // namespace troupe::model
