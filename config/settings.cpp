#include "config/setting_kinds.hpp"

#include <cstdint>
#include <limits>

namespace troupe::config {

namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr int64_t kib = int64_t{1} << 10;
constexpr int64_t mib = int64_t{1} << 20;
constexpr int64_t gib = int64_t{1} << 30;
constexpr int64_t context_max = 16 * mib;  // tokens
constexpr int64_t pixels_max = gib;

void add_model(std::vector<setting>& table) {
  using settings = engine_config::model_settings;
  setting_section<settings> model(table, "model", &engine_config::model);
  model.text("path", &settings::path, setting_role::path, {"--model", "--model-path"},
             "checkpoint folder");
  model.texts("served_names", &settings::served_names, setting_role::list,
              {"--served-model-name", "--model-name", "--alias"},
              "names that requests may give; default: the folder's name");
  model.choice("dtype", &settings::dtype,
               {{"bfloat16", compute_dtype::bfloat16},
                {"float32", compute_dtype::float32},
                {"bf16", compute_dtype::bfloat16},
                {"fp32", compute_dtype::float32},
                {"auto", compute_dtype::bfloat16}},
               {"--dtype"}, "dtype of activations and KV cache");
  model.count("max_model_len", &settings::max_model_len, {1, context_max}, or_auto::yes,
              {"--max-model-len", "--context-length", "--ctx-size", "--session-len"},
              "tokens of prompt and answer together (128k, auto)");
  model.count("seed", &settings::seed, {0, std::numeric_limits<int64_t>::max()}, or_auto::no,
              {"--seed"}, "seed of requests that bring none");
}

void add_parallel(std::vector<setting>& table) {
  using settings = engine_config::parallel_settings;
  setting_section<settings> parallel(table, "parallel", &engine_config::parallel);
  parallel.count("tensor", &settings::tensor, {1, 64}, or_auto::no,
                 {"--tensor-parallel-size", "--tp", "--tp-size", "--tp_size"},
                 "ranks that share one model");
  parallel.choice("device", &settings::device,
                  {{"auto", device_choice::automatic},
                   {"cpu", device_choice::cpu},
                   {"cuda", device_choice::cuda}},
                  {"--device"}, "what the model runs on; auto: GPUs if there are any");
  parallel.choice("isolation", &settings::isolation,
                  {{"auto", isolation_mode::automatic},
                   {"thread", isolation_mode::thread},
                   {"process", isolation_mode::process}},
                  {"--isolation"},
                  "where a shard lives: a thread of this process or a process of its own; auto: a "
                  "process on GPUs, else a thread");
  parallel.text("shard_program", &settings::shard_program, setting_role::path, {"--shard-program"},
                "started for shards in processes; empty: this program");
}

void add_step_limits(std::vector<setting>& table) {
  using settings = engine_config::limit_settings;
  setting_section<settings> limits(table, "limits", &engine_config::limits);
  limits.count("max_num_seqs", &settings::max_num_seqs, {1, 4096}, or_auto::yes,
               {"--max-num-seqs", "--max-running-requests"}, "sequences in one step");
  limits.count("max_num_batched_tokens", &settings::max_num_batched_tokens, {1, mib}, or_auto::yes,
               {"--max-num-batched-tokens", "--chunked-prefill-size"}, "tokens in one step");
  limits.count("max_prefill_tokens_beside_decode", &settings::max_prefill_tokens_beside_decode,
               {1, mib}, or_auto::yes, {"--max-prefill-tokens-beside-decode"},
               "prompt tokens in a step that also generates: few keep streams even, many are faster");
  limits.count("block_size", &settings::block_size, {1, 1024}, or_auto::no, {"--block-size"},
               "tokens in one KV block");
  limits.count("kv_cache_bytes", &settings::kv_cache_bytes, {1, 1024 * gib}, or_auto::yes,
               {"--kv-cache-memory", "--kv-cache-memory-bytes"},
               "KV cache of one rank (4G); auto: by the memory share");
  limits.share("memory_share", &settings::memory_share, {0.01, 0.95}, or_auto::yes,
               {"--memory-share", "--gpu-memory-utilization", "--mem-fraction-static"},
               "share of the memory free at start for KV cache and pools");
  limits.count("visual_pool_rows", &settings::visual_pool_rows, {1, 16 * mib}, or_auto::yes,
               {"--visual-pool-rows"}, "visual tokens that the pool holds");
  limits.count("vision_max_patches", &settings::vision_max_patches, {1, 16 * mib}, or_auto::yes,
               {"--vision-max-patches"}, "patches in one run of the vision tower");
  limits.count("vision_slice_microseconds", &settings::vision_slice_microseconds, {0, 1'000'000},
               or_auto::yes_beside_zero, {"--vision-slice-microseconds"},
               "the vision tower works so long between two steps: few keep streams even, many encode "
               "faster; 0: whole pictures beside steps");
  limits.boolean("prefix_cache", &settings::prefix_cache, {"--enable-prefix-caching"},
                 "reuse KV blocks of equal prefixes", {"--no-enable-prefix-caching"});
  limits.boolean("eager", &settings::eager, {"--eager", "--enforce-eager"},
                 "run the same kernels without graphs");
  limits.count("verify_every", &settings::verify_every, {0, mib}, or_auto::no, {"--verify-every"},
               "run one of so many steps also without its graph and compare; 0: none");
  limits.boolean("mask_unused_tokens", &settings::mask_unused_tokens, {"--mask-unused-tokens"},
                 "never sample ids without a token or vision sentinels",
                 {"--no-mask-unused-tokens"});
}

void add_request_limits(std::vector<setting>& table) {
  using settings = engine_config::limit_settings;
  setting_section<settings> limits(table, "limits", &engine_config::limits);
  limits.count("max_waiting_requests", &settings::max_waiting_requests, {1, 64 * kib}, or_auto::no,
               {"--max-waiting-requests"}, "requests that may wait for a step");
  limits.count("max_waiting_tokens", &settings::max_waiting_tokens, {1, gib}, or_auto::no,
               {"--max-waiting-tokens"}, "prompt tokens that may wait for a step");
  limits.count("max_images_per_request", &settings::max_images_per_request, {0, 4096}, or_auto::no,
               {"--max-images-per-request"}, "pictures in one request");
  limits.count("max_video_frames", &settings::max_video_frames, {0, 64 * kib}, or_auto::no,
               {"--max-video-frames"}, "frames of one clip");
  limits.count("max_request_pixels", &settings::max_request_pixels, {1, 64 * gib}, or_auto::no,
               {"--max-request-pixels"}, "decoded pixels of all pictures of a request");
  limits.duration("request_deadline", &settings::request_deadline, {seconds(1), seconds(86'400)},
                  {"--request-deadline"}, "a request older than this fails (10m)");
  limits.duration("step_timeout", &settings::step_timeout, {milliseconds(10), seconds(3600)},
                  {"--step-timeout"}, "a shard silent for longer is lost (30s)");
}

void add_vision(std::vector<setting>& table) {
  using settings = engine_config::vision_settings;
  setting_section<settings> vision(table, "vision", &engine_config::vision);
  vision.count("min_pixels", &settings::min_pixels, {1, pixels_max}, or_auto::yes, {"--min-pixels"},
               "smaller pictures are enlarged; auto: as the checkpoint says");
  vision.count("max_pixels", &settings::max_pixels, {1, pixels_max}, or_auto::yes, {"--max-pixels"},
               "larger pictures are reduced; auto: as the checkpoint says");
}

void add_http(std::vector<setting>& table) {
  using settings = engine_config::http_settings;
  setting_section<settings> http(table, "http", &engine_config::http);
  http.text("host", &settings::host, setting_role::plain, {"--host"}, "address to listen on");
  http.count("port", &settings::port, {0, 65'535}, or_auto::no, {"--port"},
             "port to listen on; 0: any free one");
  http.texts("api_keys", &settings::api_keys, setting_role::secret, {"--api-key", "--api-keys"},
             "keys that requests must bring one of");
  http.text("api_keys_file", &settings::api_keys_file, setting_role::path, {"--api-key-file"},
            "file with one more key per line");
  http.count("max_body_bytes", &settings::max_body_bytes, {kib, gib}, or_auto::no,
             {"--max-body-bytes"}, "longest request body (64M)");
  http.count("max_connections", &settings::max_connections, {1, 64 * kib}, or_auto::no,
             {"--max-connections"}, "connections at a time");
  http.duration("header_timeout", &settings::header_timeout, {milliseconds(10), seconds(3600)},
                {"--header-timeout"}, "a connection without a whole header is closed after this");
  http.duration("stalled_client_timeout", &settings::stalled_client_timeout,
                {milliseconds(10), seconds(3600)}, {"--stalled-client-timeout"},
                "a client that reads nothing for longer is cut off");
  http.count("stream_buffer_bytes", &settings::stream_buffer_bytes, {kib, gib}, or_auto::no,
             {"--stream-buffer-bytes"}, "what a slow client may leave unread");
  http.duration("ping_interval", &settings::ping_interval, {milliseconds(10), seconds(3600)},
                {"--ping-interval"}, "a silent stream sends a comment this often");
}

void add_log(std::vector<setting>& table) {
  using settings = engine_config::log_settings;
  setting_section<settings> log(table, "log", &engine_config::log);
  log.choice<std::string>("level", &settings::level,
                          {{"trace", "trace"},
                           {"debug", "debug"},
                           {"info", "info"},
                           {"warn", "warn"},
                           {"error", "error"},
                           {"off", "off"}},
                          {"--log-level"}, "least severe messages that are logged");
}

std::vector<setting> make_table() {
  std::vector<setting> table;
  add_model(table);
  add_parallel(table);
  add_step_limits(table);
  add_request_limits(table);
  add_vision(table);
  add_http(table);
  add_log(table);
  return table;
}

}  // namespace

const std::vector<setting>& settings() {
  static const std::vector<setting> table = make_table();
  return table;
}

const std::vector<setting_description>& setting_descriptions() {
  static const std::vector<setting_description> descriptions = [] {
    std::vector<setting_description> result;
    for (const auto& setting : settings()) result.push_back(setting.description);
    return result;
  }();
  return descriptions;
}

}  // namespace troupe::config
