#include "actors/http/generation_options.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <charconv>
#include <limits>

namespace troupe::http {

namespace {

using config::json_value;

constexpr int64_t int32_max = std::numeric_limits<int32_t>::max();

/// Fields of OpenAI's API and its relatives that are accepted and change nothing here.
void tolerate_common(object_reader& request) {
  request.tolerate({"user", "metadata", "store", "service_tier", "prompt_cache_key",
                    "prompt_cache_retention", "prompt_cache_options", "safety_identifier",
                    "priority", "request_id", "rid", "session_id", "stream_interval",
                    "add_special_tokens", "spaces_between_special_tokens", "length_penalty",
                    "early_stopping", "kv_transfer_params"});
}

/// Fields that would change the answer in a way this server cannot: silence would be a wrong
/// answer.
void refuse_common(object_reader& request) {
  request.refuse(
      {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
       "guided_decoding_backend", "json_schema", "regex", "ebnf", "grammar"},
      "unsupported_schema");
  request.refuse({"prompt_logprobs", "echo", "use_beam_search", "bad_words", "allowed_token_ids",
                  "truncate_prompt_tokens", "cache_salt", "prompt_embeds", "logits_processors"},
                 "unsupported_parameter");
}

void read_response_format(object_reader& request) {
  auto format = request.object("response_format");
  if (!format) return;
  const auto type = format->required_string("type");
  if (type != "text")
    fail_at(format->path_of("type"),
            fmt::format("response_format of type {} is not supported, expected \"text\"",
                        excerpt(type)),
            "unsupported_schema");
}

void read_penalties(object_reader& request, const config::generation_config& defaults,
                    plan::sampling_params& sampling) {
  sampling.frequency_penalty = request.real("frequency_penalty", {-2, 2}).value_or(0);
  sampling.presence_penalty = request.real("presence_penalty", {-2, 2}).value_or(0);
  sampling.repetition_penalty = request.real("repetition_penalty", {0, 10, true})
                                    .value_or(defaults.repetition_penalty.value_or(1.0F));
}

float default_temperature(const config::generation_config& defaults) {
  return defaults.do_sample ? defaults.temperature.value_or(1.0F) : 0.0F;
}

void read_distribution(object_reader& request, const config::generation_config& defaults,
                       plan::sampling_params& sampling) {
  // Below this the quotient logits / temperature overflows: it is greedy already.
  constexpr float temperature_greedy = 1e-4F;
  sampling.temperature =
      request.real("temperature", {0, 2}).value_or(default_temperature(defaults));
  if (sampling.temperature < temperature_greedy) sampling.temperature = 0;
  sampling.top_p = request.real("top_p", {0, 1, true}).value_or(defaults.top_p.value_or(1.0F));
  sampling.min_p = request.real("min_p", {0, 1}).value_or(0);
  const auto top_k = request.integer("top_k", {-1, int32_max}).value_or(defaults.top_k.value_or(0));
  sampling.top_k = static_cast<int32_t>(std::max<int64_t>(top_k, 0));  // -1 and 0: off
}

void read_lengths(object_reader& request, const api_limits& limits,
                  plan::sampling_params& sampling) {
  const auto newer = request.integer("max_completion_tokens", {1, int32_max});
  const auto older = request.integer("max_tokens", {1, int32_max});
  sampling.max_tokens = static_cast<int32_t>(newer ? *newer : older.value_or(0));
  const int64_t most = sampling.max_tokens > 0 ? sampling.max_tokens : limits.max_model_len;
  sampling.min_tokens = static_cast<int32_t>(request.integer("min_tokens", {0, most}).value_or(0));
  sampling.ignore_eos = request.boolean("ignore_eos").value_or(false);
}

void read_stop_texts(object_reader& request, const api_limits& limits,
                     generation_options& options) {
  const auto field = request.value("stop");
  if (!field) return;
  const auto path = request.path_of("stop");
  const auto add = [&](const json_value& value, const std::string& where) {
    const auto text = checked_string(value, where);
    if (text.empty() || text.size() > limits.stop_text_bytes_max)
      fail_at(where, fmt::format("{} has {} bytes, expected 1 to {}", where, text.size(),
                                 limits.stop_text_bytes_max));
    options.stop.emplace_back(text);
  };
  if (field->type() == json_value::kind::string) return add(*field, path);
  const auto texts = *request.array("stop", limits.num_stop_texts_max);
  for (size_t i = 0; i < texts.size(); ++i) add(texts[i], fmt::format("{}[{}]", path, i));
}

void read_stop_tokens(object_reader& request, const api_limits& limits,
                      plan::sampling_params& sampling) {
  const auto ids = request.array("stop_token_ids", limits.num_token_ids_listed_max);
  if (!ids) return;
  for (size_t i = 0; i < ids->size(); ++i)
    sampling.stop_token_ids.push_back(static_cast<int32_t>(checked_integer(
        (*ids)[i], fmt::format("stop_token_ids[{}]", i), {0, limits.num_token_ids - 1})));
}

int32_t bias_token(std::string_view key, const std::string& path, const api_limits& limits) {
  int32_t token = -1;
  const auto* end = key.data() + key.size();
  const auto [stopped, fault] = std::from_chars(key.data(), end, token);
  if (fault != std::errc{} || stopped != end || token < 0 || token >= limits.num_token_ids)
    fail_at(path, fmt::format("{} has the key {}, expected a token id from 0 to {}", path,
                              excerpt(key), limits.num_token_ids - 1));
  return token;
}

void read_logit_bias(object_reader& request, const api_limits& limits,
                     plan::sampling_params& sampling) {
  const auto field = request.value("logit_bias");
  if (!field) return;
  const auto path = request.path_of("logit_bias");
  if (field->type() != json_value::kind::object)
    fail_at(path, fmt::format("{} must be an object, found {}", path, describe(*field)));
  const auto members = field->members();
  if (members.size() > limits.num_token_ids_listed_max)
    fail_at(path, fmt::format("{} has {} tokens, at most {} are allowed", path, members.size(),
                              limits.num_token_ids_listed_max));
  for (const auto& [key, value] : members) {
    const auto token = bias_token(key, path, limits);
    sampling.logit_bias.emplace_back(
        token, checked_real(value, fmt::format("{}.{}", path, token), {-100, 100}));
  }
}

void read_streaming(object_reader& request, generation_options& options) {
  options.stream = request.boolean("stream").value_or(false);
  auto stream_options = request.object("stream_options");
  if (!stream_options) return;
  options.include_usage = stream_options->boolean("include_usage").value_or(false);
  // As vLLM: usage in every chunk is asked for on top of usage at the end.
  const auto continuous = stream_options->boolean("continuous_usage_stats").value_or(false);
  options.continuous_usage = options.include_usage && continuous;
  stream_options->tolerate({"include_obfuscation"});
}

/// `best_of` asks for more choices than are returned; only the case where it does not is served.
void read_num_choices(object_reader& request, const api_limits& limits,
                      generation_options& options) {
  options.num_choices =
      static_cast<int32_t>(request.integer("n", {1, limits.num_choices_max}).value_or(1));
  const auto best_of = request.integer("best_of", {1, limits.num_choices_max});
  if (best_of && *best_of != options.num_choices)
    request.fail("best_of", fmt::format("best_of is {}, only the value of n, {}, is supported",
                                        *best_of, options.num_choices));
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] != b[j - 1] ? 1 : 0);
      diagonal = row[j];
      row[j] = std::min({replaced, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

/// The known name that `key` was probably meant to be.
std::optional<std::string_view> nearest_name(std::string_view key,
                                             const std::vector<std::string_view>& known) {
  constexpr size_t key_bytes_max = 64;  // longer ones are no typing mistakes, and cost time
  if (key.size() > key_bytes_max || known.empty()) return std::nullopt;
  const auto distance = [&](std::string_view name) { return edit_distance(key, name); };
  const auto best = std::min_element(known.begin(), known.end(),
                                     [&](auto a, auto b) { return distance(a) < distance(b); });
  return distance(*best) <= std::max<size_t>(1, key.size() / 3) ? std::optional(*best)
                                                                : std::nullopt;
}

}  // namespace

std::string served_model_name(std::string_view requested, const api_limits& limits) {
  if (requested.empty()) return limits.served_names.front();
  for (const auto& name : limits.served_names)
    if (name == requested) return name;
  fail_at("model",
          fmt::format("the model {} is not served here, available: {}", excerpt(requested),
                      fmt::join(limits.served_names, ", ")),
          "model_not_found", 404);
}

std::vector<std::string> unknown_field_warnings(const object_reader& request) {
  // More unknown names than this are not typing mistakes.
  constexpr size_t num_warnings_max = 8;
  std::vector<std::string> warnings;
  for (const auto& key : request.unknown_keys()) {
    if (warnings.size() == num_warnings_max) break;
    auto text = fmt::format("unknown field {} is ignored", excerpt(key));
    if (const auto nearest = nearest_name(key, request.known_keys()))
      text += fmt::format(", did you mean \"{}\"?", *nearest);
    warnings.push_back(std::move(text));
  }
  return warnings;
}

void check_answer_size(const generation_options& options, int32_t num_choices,
                       const api_limits& limits) {
  if (options.stream) return;  // what is held back is bounded by the stream's buffer
  // Text and frames of a token, and of each of its log-probabilities with text, bytes and value.
  constexpr int64_t token_bytes = 16;
  constexpr int64_t logprob_bytes = 90;
  const auto& sampling = options.sampling;
  const int64_t tokens = sampling.max_tokens > 0
                             ? std::min<int64_t>(sampling.max_tokens, limits.max_model_len)
                             : limits.max_model_len;
  const int64_t each = token_bytes + logprob_bytes * (sampling.num_logprobs + 1);
  const int64_t total = tokens * each * num_choices;
  if (total > limits.answer_bytes_max)
    fail_at(sampling.max_tokens > 0 ? "max_tokens" : "n",
            fmt::format("{} choices of {} tokens with {} log-probabilities each could take {} "
                        "bytes, at most {} are allowed: ask for fewer tokens, or stream",
                        num_choices, tokens, sampling.num_logprobs + 1, total,
                        limits.answer_bytes_max));
}

generation_options read_generation_options(object_reader& request, const api_limits& limits) {
  generation_options options;
  options.model = served_model_name(request.string("model").value_or(""), limits);
  read_distribution(request, limits.generation, options.sampling);
  read_penalties(request, limits.generation, options.sampling);
  read_lengths(request, limits, options.sampling);
  read_stop_texts(request, limits, options);
  read_stop_tokens(request, limits, options.sampling);
  read_logit_bias(request, limits, options.sampling);
  read_streaming(request, options);
  read_num_choices(request, limits, options);
  read_response_format(request);
  const auto seed = request.integer(
      "seed", {std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()});
  if (seed) options.seed = static_cast<uint64_t>(*seed);
  options.include_stop_text = request.boolean("include_stop_str_in_output").value_or(false);
  options.skip_special_tokens = request.boolean("skip_special_tokens").value_or(true);
  options.return_token_ids = request.boolean("return_token_ids").value_or(false);
  options.tokens_as_ids = request.boolean("return_tokens_as_token_ids").value_or(false);
  refuse_common(request);
  tolerate_common(request);
  return options;
}

}  // namespace troupe::http
