#pragma once

#include "actors/http/api_limits.hpp"
#include "actors/http/object_reader.hpp"
#include "model/plan/sampling_params.hpp"

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace troupe::http {

/// What chat and text completions have in common: how to sample and how to answer.
struct generation_options {
  std::string model;               // a served name
  plan::sampling_params sampling;  // max_tokens 0: the rest of the context; `seed` is not set here
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  bool include_stop_text = false;
  bool skip_special_tokens = true;
  int32_t num_choices = 1;
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;
  bool return_token_ids = false;
  bool tokens_as_ids = false;         // log-probability tokens as "token_id:17"
  std::vector<std::string> warnings;  // one per unknown field
};

/// Reads the shared fields of `request`. Absent sampling fields take the model's generation_config,
/// then the neutral value; a generation_config without `do_sample` means greedy. Throws
/// request_fault.
generation_options read_generation_options(object_reader& request, const api_limits& limits);

/// The served name that `requested` stands for: empty means the first. Throws request_fault (404).
std::string served_model_name(std::string_view requested, const api_limits& limits);

/// One warning per member of `request` that nobody asked for, with the nearest known name.
std::vector<std::string> unknown_field_warnings(const object_reader& request);

/// Refuses answers whose tokens and log-probabilities, all choices together, could outgrow
/// `answer_bytes_max`. Throws request_fault.
void check_answer_size(const generation_options& options, int32_t num_choices,
                       const api_limits& limits);

}  // namespace troupe::http
