#include "actors/http/server_metrics.hpp"

#include <sys/resource.h>
#include <unistd.h>

#include <fmt/format.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <system_error>
#include <vector>

namespace troupe::http {

namespace {

// vLLM's bounds, so that quantiles of both can be compared.
const std::vector<double> first_token_bounds{0.001, 0.005, 0.01, 0.02,  0.04,  0.06,  0.08, 0.1,
                                             0.25,  0.5,   0.75, 1.0,   2.5,   5.0,   7.5,  10.0,
                                             20.0,  40.0,  80.0, 160.0, 640.0, 2560.0};
const std::vector<double> inter_token_bounds{0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1,
                                             0.15,  0.2,    0.3,   0.4,  0.5,   0.75, 1.0,   2.5,
                                             5.0,   7.5,    10.0,  20.0, 40.0,  80.0};
const std::vector<double> request_bounds{0.3,  0.5,   0.8,   1.0,   1.5,   2.0,    2.5,
                                         5.0,  10.0,  15.0,  20.0,  30.0,  40.0,   50.0,
                                         60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
const std::vector<double> http_bounds{0.005, 0.01, 0.025, 0.05, 0.1,  0.25, 0.5,
                                      1.0,   2.5,  5.0,   10.0, 30.0, 60.0, 300.0};
const std::vector<double> length_bounds{1,    2,    5,    10,    20,    50,    100,    200,   500,
                                        1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
const std::vector<double> choice_bounds{1, 2, 5, 10, 20};

template <class Map>
std::vector<sample> samples_of(const Map& counts, std::string_view label_name) {
  std::vector<sample> samples;
  for (const auto& [text, count] : counts)
    samples.push_back({{{label_name, text}}, static_cast<double>(count)});
  return samples;
}

double ratio(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0.0;
}

void write_engine(prometheus_writer& out, const actors::engine_status& engine, int32_t block_size) {
  const auto& planner = engine.planner;
  out.gauge({"requests_running", "Requests in the running batch.", "num_requests_running"},
            planner.running);
  out.gauge({"requests_waiting", "Requests that wait to run.", "num_requests_waiting"},
            planner.waiting + planner.waiting_for_media);
  out.gauge({"requests_waiting_by_reason", "Requests that wait to run, by what they wait for.",
             "num_requests_waiting_by_reason"},
            {{{{"reason", "capacity"}}, static_cast<double>(planner.waiting)},
             {{{"reason", "media"}}, static_cast<double>(planner.waiting_for_media)}});
  out.gauge({"requests_paused", "Requests whose client has not read what it was sent."},
            planner.paused);
  out.gauge({"kv_cache_usage_ratio", "Share of the KV blocks that requests hold, 0 to 1.",
             "kv_cache_usage_perc"},
            ratio(planner.blocks_held, planner.blocks_total));
  const auto block_size_text = fmt::to_string(block_size);
  const auto num_blocks_text = fmt::to_string(planner.blocks_total);
  out.gauge({"kv_cache_info", "Sizes of the KV cache.", "cache_config_info"},
            {{{{"block_size", block_size_text}, {"num_gpu_blocks", num_blocks_text}}, 1}});
  out.counter({"prefix_cache_queries_total", "Prompt tokens looked up in the prefix cache.",
               "prefix_cache_queries_total"},
              static_cast<double>(planner.prefix_queries));
  out.counter({"prefix_cache_hits_total", "Prompt tokens found in the prefix cache.",
               "prefix_cache_hits_total"},
              static_cast<double>(planner.prefix_hits));
  out.counter({"preemptions_total", "Requests set back to be recomputed.", "num_preemptions_total"},
              static_cast<double>(planner.preemptions));
  out.counter({"steps_total", "Steps planned."}, static_cast<double>(planner.steps));
  out.gauge({"visual_rows", "Rows of the visual pool."},
            {{{{"state", "used"}}, static_cast<double>(engine.vision_rows_used)},
             {{{"state", "total"}}, static_cast<double>(engine.vision_rows_total)}});
  out.counter({"mm_cache_queries_total", "Pictures and clips that requests needed.",
               "mm_cache_queries_total"},
              static_cast<double>(engine.images_encoded + engine.images_reused));
  out.counter({"mm_cache_hits_total", "Pictures and clips that were encoded already.",
               "mm_cache_hits_total"},
              static_cast<double>(engine.images_reused));
  out.counter(
      {"vision_slices_total", "Slices of pictures that the vision tower gave to its device."},
      static_cast<double>(engine.vision_pacing.slices_issued));
  out.counter({"vision_steps_passed_over_total",
               "Steps in which a slice of a picture was ready and left to a later step."},
              static_cast<double>(engine.vision_pacing.steps_passed_over));
  out.counter({"graph_captures_after_start_total", "Graphs recorded after start: expected none."},
              static_cast<double>(engine.graph_captures_after_start));
  out.counter({"arena_allocations_after_start_total",
               "Allocations in sealed arenas after start: expected none."},
              static_cast<double>(engine.arena_allocations_after_start));
  out.counter({"verified_steps_total", "Steps run a second time without their graph to compare."},
              static_cast<double>(engine.verification.steps_verified));
  out.counter({"verification_mismatches_total",
               "Verified steps whose graph gave another result: expected none."},
              static_cast<double>(engine.verification.mismatches));
  out.gauge({"quarantined_graphs", "Token buckets that run without their graph: expected none."},
            engine.verification.graphs_quarantined);
  out.counter({"groups_lost_total", "Groups of shards that were lost."},
              static_cast<double>(engine.recovery.groups_lost));
  out.counter(
      {"ranks_kept_total", "Ranks that went on in the next group with their weights and graphs."},
      static_cast<double>(engine.recovery.ranks_kept));
  out.counter({"ranks_replaced_total", "Ranks that were started anew after a loss."},
              static_cast<double>(engine.recovery.ranks_replaced));
  out.gauge({"last_recovery_seconds", "From the last loss of a group to the next group."},
            engine.recovery.last_seconds);
  out.gauge({"load_ratio", "How far loading has come, 0 to 1."}, engine.percent / 100);
}

double resident_bytes() {
  std::ifstream statm("/proc/self/statm");
  int64_t total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return static_cast<double>(resident_pages) * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double open_descriptors() {
  std::error_code fault;
  double count = 0;
  for (std::filesystem::directory_iterator entry("/proc/self/fd", fault), end;
       !fault && entry != end; entry.increment(fault))
    ++count;
  return count;
}

// Of this library's load, which is the process's start for every purpose of a dashboard.
const double start_seconds =
    std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();

}  // namespace

server_metrics::server_metrics()
    : http_seconds_(http_bounds),
      first_token_(first_token_bounds),
      inter_token_(inter_token_bounds),
      per_token_(inter_token_bounds),
      whole_request_(request_bounds),
      prompt_lengths_(length_bounds),
      answer_lengths_(length_bounds),
      image_tokens_(length_bounds),
      choices_(choice_bounds),
      max_tokens_(length_bounds) {}

std::string server_metrics::reason_text(actors::finish_reason reason) {
  return reason == actors::finish_reason::length ? "length" : "stop";
}

void server_metrics::count_http(std::string_view method, int32_t status, std::string_view handler,
                                double seconds) {
  ++http_[{std::string(method), fmt::to_string(status), std::string(handler)}];
  http_seconds_.observe(seconds);
}

void server_metrics::count_accepted(int32_t num_choices, int32_t max_tokens) {
  choices_.observe(num_choices);
  if (max_tokens > 0) max_tokens_.observe(max_tokens);
}

void server_metrics::count_media(const model::media_item& item, int32_t merge_size) {
  (item.video ? video_frames_ : pictures_) += static_cast<int64_t>(item.frames.size());
  image_tokens_.observe(item.grid.visual_tokens(merge_size));
}

void server_metrics::count_next_tokens(double seconds, int64_t tokens) {
  if (tokens > 0) inter_token_.observe(seconds / static_cast<double>(tokens), tokens);
}

void server_metrics::count_answer(const answer_usage& usage, double seconds,
                                  double seconds_after_first) {
  prompt_tokens_ += usage.prompt_tokens;
  generated_tokens_ += usage.completion_tokens;
  prompt_lengths_.observe(static_cast<double>(usage.prompt_tokens));
  answer_lengths_.observe(static_cast<double>(usage.completion_tokens));
  whole_request_.observe(seconds);
  if (usage.completion_tokens > 1)
    per_token_.observe(seconds_after_first / static_cast<double>(usage.completion_tokens - 1));
}

void server_metrics::write_requests(prometheus_writer& out) const {
  out.counter({"prompt_tokens_total", "Prompt tokens of answered requests.", "prompt_tokens_total"},
              static_cast<double>(prompt_tokens_));
  out.counter({"generation_tokens_total", "Generated tokens of answered requests.",
               "generation_tokens_total"},
              static_cast<double>(generated_tokens_));
  out.counter(
      {"request_success_total", "Choices that ended well, by reason.", "request_success_total"},
      samples_of(finished_, "finished_reason"));
  out.counter({"request_failure_total", "Requests that ended with an error, by its code."},
              samples_of(failed_, "code"));
  out.counter({"request_cancelled_total", "Requests whose client left."},
              static_cast<double>(cancelled_));
  out.counter({"request_stalled_total", "Streams ended because their client did not read."},
              static_cast<double>(stalled_));
  out.counter({"request_paused_total", "Pauses of streams until their client had read."},
              static_cast<double>(paused_));
  out.counter({"unknown_request_fields_total", "Request fields that no one here knows."},
              static_cast<double>(unknown_fields_));
  out.counter({"images_total", "Pictures in requests."}, static_cast<double>(pictures_));
  out.counter({"video_frames_total", "Frames of clips in requests."},
              static_cast<double>(video_frames_));
  out.distribution({"image_tokens", "Visual tokens of each picture or clip."}, image_tokens_);
  out.distribution({"time_to_first_token_seconds", "From the request's arrival to its first token.",
                    "time_to_first_token_seconds"},
                   first_token_);
  out.distribution({"inter_token_latency_seconds", "Between tokens of one choice.",
                    "inter_token_latency_seconds"},
                   inter_token_);
  out.distribution(
      {"request_time_per_output_token_seconds", "Mean time between the tokens of a request.",
       "request_time_per_output_token_seconds"},
      per_token_);
  out.distribution({"e2e_request_latency_seconds", "From the request's arrival to its last token.",
                    "e2e_request_latency_seconds"},
                   whole_request_);
  out.distribution(
      {"request_prompt_tokens", "Prompt tokens of each request.", "request_prompt_tokens"},
      prompt_lengths_);
  out.distribution({"request_generation_tokens", "Generated tokens of each request.",
                    "request_generation_tokens"},
                   answer_lengths_);
  out.distribution({"request_params_n", "Choices asked for.", "request_params_n"}, choices_);
  out.distribution({"request_params_max_tokens", "Tokens asked for, where a request says so.",
                    "request_params_max_tokens"},
                   max_tokens_);
}

void server_metrics::write_http(prometheus_writer& out, size_t connections) const {
  std::vector<sample> samples;
  for (const auto& [key, count] : http_) {
    const auto& [method, status, handler] = key;
    samples.push_back({{{"method", method}, {"status", status}, {"handler", handler}},
                       static_cast<double>(count)});
  }
  out.counter({"http_requests_total", "HTTP requests by method, status and route."}, samples);
  out.distribution(
      {"http_request_duration_seconds", "From an HTTP request's head to its last byte."},
      http_seconds_);
  out.gauge({"http_connections", "Open connections."}, static_cast<double>(connections));
}

std::string server_metrics::text(const actors::engine_status& engine, const std::string& model_name,
                                 int32_t block_size, size_t connections, bool vllm_aliases) const {
  prometheus_writer out(model_name, vllm_aliases);
  write_engine(out, engine, block_size);
  write_requests(out);
  write_http(out, connections);
  write_process_metrics(out);
  return out.take();
}

void write_process_metrics(prometheus_writer& out) {
  out.process({"process_resident_memory_bytes", "Resident memory."}, "gauge", resident_bytes());
  out.process({"process_cpu_seconds_total", "User and system time."}, "counter", cpu_seconds());
  out.process({"process_open_fds", "Open file descriptors."}, "gauge", open_descriptors());
  out.process({"process_start_time_seconds", "Start of the process, Unix time."}, "gauge",
              start_seconds);
}

}  // namespace troupe::http
