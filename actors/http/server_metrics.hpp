#pragma once

#include "actors/http/answer.hpp"
#include "actors/http/prometheus.hpp"
#include "actors/messages.hpp"

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>

namespace troupe::http {

/// What the server counts. Belongs to the network thread, which alone writes and reads it: no locks
/// and no atomics where tokens pass.
class server_metrics {
 public:
  server_metrics();

  /// `handler` is a route, never a client's path: clients must not be able to grow this table.
  void count_http(std::string_view method, int32_t status, std::string_view handler,
                  double seconds);
  void count_accepted(int32_t num_choices, int32_t max_tokens);
  void count_media(const model::media_item& item, int32_t merge_size);
  void count_unknown_fields(int64_t fields) { unknown_fields_ += fields; }
  void count_first_token(double seconds) { first_token_.observe(seconds); }
  /// `tokens` arrived together, `seconds` after those before them.
  void count_next_tokens(double seconds, int64_t tokens);
  void count_finished(actors::finish_reason reason) { ++finished_[reason_text(reason)]; }
  void count_failed(std::string_view code) { ++failed_[std::string(code)]; }
  void count_cancelled() { ++cancelled_; }
  void count_stalled() { ++stalled_; }
  void count_paused() { ++paused_; }
  void count_answer(const answer_usage& usage, double seconds, double seconds_after_first);

  /// The page of /metrics. `connections` are those open now.
  std::string text(const actors::engine_status& engine, const std::string& model_name,
                   int32_t block_size, size_t connections, bool vllm_aliases) const;

 private:
  static std::string reason_text(actors::finish_reason reason);
  void write_requests(prometheus_writer& out) const;
  void write_http(prometheus_writer& out, size_t connections) const;

  std::map<std::tuple<std::string, std::string, std::string>, int64_t>
      http_;                                 // method, status, handler
  std::map<std::string, int64_t> finished_;  // by reason
  std::map<std::string, int64_t> failed_;    // by error code
  int64_t cancelled_ = 0, stalled_ = 0, paused_ = 0, unknown_fields_ = 0;
  int64_t prompt_tokens_ = 0, generated_tokens_ = 0;
  int64_t pictures_ = 0, video_frames_ = 0;
  histogram http_seconds_, first_token_, inter_token_, per_token_, whole_request_;
  histogram prompt_lengths_, answer_lengths_, image_tokens_, choices_, max_tokens_;
};

/// The memory, time and descriptors of this process, as every exporter gives them.
void write_process_metrics(prometheus_writer& out);

}  // namespace troupe::http
